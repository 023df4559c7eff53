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
