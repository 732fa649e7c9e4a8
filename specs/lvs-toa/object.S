/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The compiled BPF programs, as a part of lvs-toa: nothing is installed that could be of another version. */
	.section .rodata
	.balign 8
	.global toa_object, toa_object_end
toa_object:
	.incbin "toa.bpf.o"
toa_object_end:
	.byte 0
	.section .note.GNU-stack, "", @progbits
