/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What linux/compiler-gcc.h of Linux 2.6.32 wants to know of the compiler's generation, for gcc 12.
 * The tree has such a header for generation 3 and 4 only. Attributes are spelt as the one for 4 spells
 * them: the spelling is part of the checksums of exported symbols, and so of the kernel ABI.
 */
#ifndef __LINUX_COMPILER_H
#error "included by linux/compiler.h alone"
#endif

#define __used __attribute__((__used__))
#define __must_check __attribute__((warn_unused_result))
#define __always_inline inline __attribute__((always_inline))
#define __cold __attribute__((__cold__))
#define __compiler_offsetof(type, member) __builtin_offsetof(type, member)
#define uninitialized_var(variable) variable = variable
