/* For LD_PRELOAD under qemu-img, in tests alone: its PBKDF2 benchmark takes over two seconds of CPU
 * for each image, whatever iter-time says, and now and then fails ("Unable to get accurate CPU
 * usage"). Seen through this clock every round takes a second, and it is content with the first
 * one. All it changes in the image is the number of iterations. */
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

int getrusage(__rusage_who_t who, struct rusage *r)
{
    static long seconds;
    long rc = syscall(SYS_getrusage, who, r);
    r->ru_utime.tv_sec += seconds++;
    return (int)rc;
}
