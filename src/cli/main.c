#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "src/cli/cli.h"
#include "src/serve/harden.h"

int main(int argc, char **argv)
{
    if (harden_process() < 0) {
        fprintf(stderr, "nvkeep: STORAGE_ERROR: cannot set up the process: %s\n",
                strerrordesc_np(errno));
        return err_class(ERR_STORAGE)->exit_code;
    }
    return cli_main(argc, argv);
}
