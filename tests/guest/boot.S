/* Where QEMU's -kernel enters: 32-bit protected mode, flat segments, no paging, interrupts off
 * [Multiboot 0.6.96, 3.2]. Nothing is said about the GDT and the stack, so both are ours. */
    .set MAGIC, 0x1badb002
    .set FLAGS, 2 /* say how much memory there is */

    .section .multiboot, "a"
    .align 4
    .long MAGIC, FLAGS, -(MAGIC + FLAGS)

    .text
    .globl _start
_start:
    cli
    cld
    mov $stack_top, %esp
    lgdt gdt_pointer
    ljmp $0x08, $1f
1:  mov $0x10, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %fs
    mov %ax, %gs
    mov %ax, %ss
    push %ebx
    call guest_main
2:  hlt
    jmp 2b

/* Every interrupt we let through: it only ends a hlt. */
    .globl wake_up
wake_up:
    push %eax
    mov $0x20, %al
    out %al, $0x20
    pop %eax
    iret

    .section .rodata
    .align 8
gdt:
    .quad 0
    .quad 0x00cf9a000000ffff
    .quad 0x00cf92000000ffff
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt

    .bss
    .align 16
    .skip 16384
stack_top:
    .section .note.GNU-stack, "", @progbits
