/* Any bytes as what a daemon says to `nvkeep ctl`: it ends, in time, with an error that has a class
 * or with a report in which nothing is a command for a terminal.
 * Class: admin
 *
 * Input: a byte that chooses what is asked, then everything that the daemon says before it hangs
 * up.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "src/cli/cli.h"
#include "tests/fuzz/fuzz.h"

const unsigned fuzz_replays = 1000;
enum { LONGEST_MS = 3000 }; /* of this thread, under a sanitizer */

static struct daemon {
    int listener;
    struct sockaddr_un address;
    pthread_t thread;
    sem_t begin, done;
    const uint8_t *p;
    size_t n;
} d = {.listener = -1};

/* Its answers do not depend on the questions. */
static void *serve_one(void *arg)
{
    static uint8_t scrap[65536];
    (void)arg;
    for (;;) {
        sem_wait(&d.begin);
        int fd = accept(d.listener, NULL, NULL);
        ssize_t sent = 1;
        for (size_t at = 0; at < d.n && sent > 0; at += (size_t)sent)
            sent = send(fd, d.p + at, d.n - at, MSG_NOSIGNAL);
        shutdown(fd, SHUT_WR);
        while (recv(fd, scrap, sizeof(scrap), 0) > 0)
            ;
        close(fd);
        sem_post(&d.done);
    }
    return NULL;
}

static void remove_socket(void)
{
    unlink(d.address.sun_path);
}

static void begin_process(void)
{
    d.address = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(d.address.sun_path, sizeof(d.address.sun_path), "/dev/shm/nvkeep-fuzz-ctl.%d",
             (int)getpid());
    remove_socket();
    d.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    PROMISE(bind(d.listener, (struct sockaddr *)&d.address, sizeof(d.address)) == 0);
    PROMISE(listen(d.listener, 1) == 0 && atexit(remove_socket) == 0);
    PROMISE(sem_init(&d.begin, 0, 0) == 0 && sem_init(&d.done, 0, 0) == 0);
    PROMISE(pthread_create(&d.thread, NULL, serve_one, NULL) == 0);
}

/* What is asked: a command's name, or events that are followed. */
static struct cli_args question(uint8_t which)
{
    static const char *const names[] = {"events", "query-status", "query-commands",
                                        "prepare-outgoing", "migrate-abort"};
    static char follows[] = "";
    struct cli_args a = {
        .image = d.address.sun_path, .more = {names[which % ARRAY_LEN(names)]}, .n_more = 1};
    if (which % ARRAY_LEN(names) == 0 && which & 128)
        a.text[OPT_FOLLOW] = follows;
    return a;
}

static void check_shown(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint8_t c = (uint8_t)text[i];
        PROMISE((c >= 0x20 && c < 0x7f) || c == '\n');
    }
}

/* With what it prints in memory. */
static void ask(uint8_t which)
{
    const struct cli_args a = question(which);
    struct cli_run run = {.args = &a};
    OWNED(json_out) json = which & 64 ? json_out_new() : NULL;
    struct err e = {0};
    FILE *usual = stdout;
    char *shown = NULL;
    size_t n = 0;
    run.json = json;
    stdout = open_memstream(&shown, &n);
    PROMISE(stdout);
    int r = cmd_ctl(&run, &e);
    fclose(stdout);
    stdout = usual;
    PROMISE((r == 0) == (e.kind == ERR_NONE));
    if (r < 0)
        check_shown(e.text, strlen(e.text));
    if (!json)
        check_shown(shown, n);
    free(shown);
}

static int64_t used_ms(void)
{
    struct timespec t;
    PROMISE(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    if (n == 0)
        return 0;
    if (d.listener < 0)
        begin_process();
    d.p = bytes + 1;
    d.n = n - 1;
    sem_post(&d.begin);
    int64_t began = used_ms();
    ask(bytes[0]);
    int64_t took = used_ms() - began;
    sem_wait(&d.done);
    PROMISE(took < LONGEST_MS);
    return 0;
}
