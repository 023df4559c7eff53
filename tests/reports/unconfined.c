/* For valgrind, which knows neither seccomp() nor Landlock's calls and makes executable memory all
 * the time: loaded in front of libseccomp, so that the daemon goes on without its filter. Landlock
 * says by itself that it is not there.
 */
#include <stdint.h>

int seccomp_attr_set(void *filter, int attribute, uint32_t value);
int seccomp_load(const void *filter);

int seccomp_attr_set(void *filter, int attribute, uint32_t value)
{
    (void)filter;
    (void)attribute;
    (void)value;
    return 0;
}

int seccomp_load(const void *filter)
{
    (void)filter;
    return 0;
}
