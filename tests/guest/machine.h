/* The PC under the micro-guest: ports, serial line, time, power. Single-threaded, polled; the only
 * interrupt is the serial line's, and all it does is to end the sleep of serial_read_line().
 */
#ifndef NVKEEP_GUEST_MACHINE_H
#define NVKEEP_GUEST_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int c, size_t n);

static inline void relax(void)
{
    __asm__ volatile("pause" ::: "memory");
}

/* Everything that changes while a loop runs: this page, and the stack's.
 *
 * QEMU's TCG loses a store now and then while a machine migrates: a page that is written all the
 * time gets a fast entry in the TLB, and there are moments at which that entry survives the
 * clearing of the dirty bitmap, so that what is written from then on is not sent (about once in 100
 * migrations; one such hole was closed in QEMU 9.0). A page that holds code which was executed has
 * no fast entry: every store to it takes the slow way, which is exact. So both pages begin with a
 * return instruction, and hot_touch() calls it. */
enum { PAGE_BYTES = 4096, RESPONSE_BYTES = PAGE_BYTES - 64 };
struct hot {
    uint8_t code;
    uint32_t timer_last, ticks_rest, ms_total; /* now_ms() */
    uint32_t seq, round, n_dirtied;            /* of the loop that runs */
    uint8_t resp[RESPONSE_BYTES];
};
_Static_assert(sizeof(struct hot) <= PAGE_BYTES, "one page");
extern struct hot hot;
/* As often as may be, for whoever translated the code forgets it: a migration, a full cache. */
void hot_touch(void);

void machine_init(void);
_Noreturn void machine_reset(void);
_Noreturn void machine_poweroff(void);

/* Milliseconds of the ACPI timer since the start; runs on while the machine is stopped. It has 24
 * bits, so somebody has to ask at least every 4 seconds. */
uint32_t now_ms(void);
void sleep_ms(uint32_t ms);

void put_char(char c);
void put(const char *s);
void put_number(uint32_t n);
void put_hex(const uint8_t *p, size_t n);

/* A line without its end; what does not fit is dropped and the line comes out as truncated (false).
 * Sleeps while nothing comes. */
bool serial_read_line(char *line, size_t size);
/* Is there input? Takes nothing. */
bool serial_has_input(void);

#endif
