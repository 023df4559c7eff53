#include <stdio.h>

#include "src/compat/emulator_args.h"

static const char for_sockets[] =
    "-p|--port <port>     : serve this TCP port on 127.0.0.1, one command for each connection\n"
    "-f|--fd <fd>         : an inherited socket with TPM commands; end when it is closed\n"
    "-t|--terminate       : end when the data connection is lost\n"
    "--keep-listening     : not swtpm's: when the emulator shuts the TPM down, wait for the next "
    "one\n"
    "--server [type=tcp,]port=<port>[,bindaddr=<address>][,disconnect]|fd=<fd>\n"
    "--server type=unixio,path=<path>[,mode=0...][,uid=<uid>][,gid=<gid>]|fd=<fd>\n"
    "                     : the data channel\n";
static const char for_devices[] =
    "-c|--chardev <path>  : a character device with TPM commands\n"
    "-f|--fd <fd>         : an inherited character device or socket with TPM commands\n";
static const char for_both[] =
    "-d|--daemon          : go to the background once the TPM's state is open\n"
    "--ctrl "
    "type=unixio|tcp[,path=<path>][,port=<port>[,bindaddr=<address>]][,fd=<fd>|clientfd=<fd>]\n"
    "       [,mode=0...][,uid=<uid>][,gid=<gid>][,terminate]\n"
    "                     : the control channel\n"
    "--tpmstate dir=<dir>|backend-uri=dir://<dir>|backend-uri=file://<path>[,mode=0...][,lock]\n"
    "                     : where the state is: <dir>/tpm2-00.qcow2 (TPM 1.2: tpm-00.qcow2), or\n"
    "                       <path>; TPM_PATH in the environment stands for dir\n"
    "--key file=<path>|fd=<fd>[,mode=aes-cbc|aes-256-cbc][,format=hex|binary][,remove]\n"
    "--key pwdfile=<path>|pwdfd=<fd>[,mode=aes-cbc|aes-256-cbc][,kdf=sha512|pbkdf2][,remove]\n"
    "                     : the key of the image: a passphrase as it is, of a key its digits in\n"
    "                       lower-case hexadecimal. Without it a random key is made and kept in\n"
    "                       <dir>/tpm2-00.key or <path>.key\n"
    "--migration-key ...  : the same forms: under this key travels what a migration moves\n"
    "--migration [incoming][,release-lock-outgoing]\n"
    "--log file=<path>|fd=<fd>[,level=<n>][,prefix=<text>][,truncate]\n"
    "--locality [reject-locality-4][,allow-set-locality]\n"
    "--flags [not-need-init][,startup-clear|startup-state|startup-deactivated|startup-none]\n"
    "        [,disable-auto-shutdown]\n"
    "--pid file=<path>|fd=<fd>\n"
    "-r|--runas <user>    : change to the given user\n"
    "-R|--chroot <path>   : change the root directory\n"
    "--tpm2               : a TPM 2.0 (otherwise a TPM 1.2)\n"
    "--seccomp action=none|log|kill\n"
    "                     : accepted; the process always has a filter, and what that forbids "
    "fails\n"
    "--print-capabilities : print what is supported, as JSON, and end\n"
    "--print-states       : print which states there are, as JSON, and end\n"
    "--print-info <flags> : print what libtpms says about itself, as JSON, and end\n"
    "-h|--help            : this text\n"
    "\n"
    "The owner of the machine decides in ";

void emulator_usage(FILE *to, bool chardev)
{
    fprintf(to, "Usage: swtpm %s [options]\n\nThe following options are supported:\n\n%s%s%s.\n",
            chardev ? "chardev" : "socket", chardev ? for_devices : for_sockets, for_both,
            compat_policy_path());
}
