#include "machine.h"

enum {
    COM1 = 0x3f8,
    COM_DATA = COM1,
    COM_IER = COM1 + 1,
    COM_FCR = COM1 + 2,
    COM_LCR = COM1 + 3,
    COM_MCR = COM1 + 4,
    COM_LSR = COM1 + 5,
    LSR_HAS_DATA = 0x01,
    LSR_CAN_SEND = 0x20,
    /* Where SeaBIOS puts the ACPI registers, on pc and q35 alike. */
    PM_BASE = 0x600,
    PM1_CONTROL = PM_BASE + 4,
    PM_TIMER = PM_BASE + 8,
    PM_TIMER_HZ = 3579545,
    SLEEP_S5 = 0x2000,
    RESET_PORT = 0xcf9,
    PIC1 = 0x20,
    PIC2 = 0xa0,
    IRQ_COM1 = 4,
    FIRST_VECTOR = 0x20,
    CODE_SELECTOR = 0x08,
};

struct gate {
    uint16_t low, selector, flags, high;
};

extern void wake_up(void);

static struct gate idt[FIRST_VECTOR + 16];
static uint32_t timer_last, ticks_rest, ms_total;

static inline void out8(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}

static inline void out16(uint16_t port, uint16_t v)
{
    __asm__ volatile("outw %0, %1" ::"a"(v), "Nd"(port));
}

static inline uint8_t in8(uint16_t port)
{
    uint8_t v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static inline uint32_t in32(uint16_t port)
{
    uint32_t v;
    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

void *memcpy(void *to, const void *from, size_t n)
{
    uint8_t *t = to;
    const uint8_t *f = from;
    while (n--)
        *t++ = *f++;
    return to;
}

void *memset(void *to, int c, size_t n)
{
    uint8_t *t = to;
    while (n--)
        *t++ = (uint8_t)c;
    return to;
}

static void interrupts_init(void)
{
    uint32_t at = (uint32_t)(uintptr_t)wake_up;
    for (size_t i = FIRST_VECTOR; i < sizeof idt / sizeof idt[0]; i++)
        idt[i] = (struct gate){(uint16_t)at, CODE_SELECTOR, 0x8e00, (uint16_t)(at >> 16)};
    struct __attribute__((packed)) {
        uint16_t limit;
        uint32_t base;
    } pointer = {sizeof idt - 1, (uint32_t)(uintptr_t)idt};
    __asm__ volatile("lidt %0" ::"m"(pointer));

    out8(PIC1, 0x11);
    out8(PIC1 + 1, FIRST_VECTOR);
    out8(PIC1 + 1, 4);
    out8(PIC1 + 1, 1);
    out8(PIC2 + 1, 0xff);
    out8(PIC1 + 1, (uint8_t) ~(1 << IRQ_COM1));
}

void machine_init(void)
{
    out8(COM_IER, 0);
    out8(COM_LCR, 0x80);
    out8(COM_DATA, 1); /* 115200 */
    out8(COM_IER, 0);
    out8(COM_LCR, 3);
    out8(COM_FCR, 0x07);
    out8(COM_MCR, 0x0b);
    out8(COM_IER, 1);
    interrupts_init();
    timer_last = in32(PM_TIMER);
}

void machine_reset(void)
{
    out8(RESET_PORT, 0x02);
    out8(RESET_PORT, 0x06);
    for (;;)
        __asm__ volatile("hlt");
}

void machine_poweroff(void)
{
    out16(PM1_CONTROL, SLEEP_S5);
    for (;;)
        __asm__ volatile("hlt");
}

uint32_t now_ms(void)
{
    uint32_t t = in32(PM_TIMER);
    ticks_rest += (t - timer_last) & 0xffffff;
    timer_last = t;
    while (ticks_rest >= PM_TIMER_HZ / 1000) {
        ticks_rest -= PM_TIMER_HZ / 1000;
        ms_total++;
    }
    return ms_total;
}

void sleep_ms(uint32_t ms)
{
    uint32_t from = now_ms();
    while (now_ms() - from < ms)
        relax();
}

void put_char(char c)
{
    while (!(in8(COM_LSR) & LSR_CAN_SEND))
        relax();
    out8(COM_DATA, (uint8_t)c);
}

void put(const char *s)
{
    while (*s)
        put_char(*s++);
}

void put_number(uint32_t n)
{
    char digits[10];
    size_t i = 0;
    do {
        digits[i++] = (char)('0' + n % 10);
        n /= 10;
    } while (n);
    while (i)
        put_char(digits[--i]);
}

void put_hex(const uint8_t *p, size_t n)
{
    static const char digit[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        put_char(digit[p[i] >> 4]);
        put_char(digit[p[i] & 15]);
    }
}

bool serial_has_input(void)
{
    return in8(COM_LSR) & LSR_HAS_DATA;
}

static char get_char(void)
{
    for (;;) {
        __asm__ volatile("cli");
        if (serial_has_input())
            return (char)in8(COM_DATA);
        /* Nothing can come between these two: sti takes effect after the next instruction. */
        __asm__ volatile("sti\n\thlt\n\tcli" ::: "memory");
    }
}

bool serial_read_line(char *line, size_t size)
{
    size_t n = 0;
    bool fits = true;
    for (;;) {
        char c = get_char();
        if (c == '\n')
            break;
        if (c == '\r')
            continue;
        if (n + 1 < size)
            line[n++] = c;
        else
            fits = false;
    }
    line[n] = 0;
    return fits;
}
