/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is said on standard error. Text that is not ours is printed without control characters. */
#ifndef LVS_TOA_SAY_H
#define LVS_TOA_SAY_H

__attribute__((format(printf, 1, 2))) void say_plain(const char *format, ...);

/* An error: what, why it matters, and what to do next. `why` may be NULL. */
__attribute__((format(printf, 4, 5))) void say_error(const char *object, const char *why,
						     const char *next, const char *format, ...);

#endif
