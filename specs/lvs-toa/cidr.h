/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Prefixes of addresses: what is trusted, as text and as the key of a map. */
#ifndef LVS_TOA_CIDR_H
#define LVS_TOA_CIDR_H

#include <stdbool.h>
#include <stddef.h>

#include "toa.h"

#define CIDR_TEXT 64 /* bytes for a prefix as text */
#define CIDR_WRONG 192 /* bytes for what is wrong with one */

/* Read `text`, an address or ADDRESS/LENGTH. False with what is wrong in `wrong`. */
bool cidr_parse(const char *text, struct toa_prefix *prefix, char wrong[CIDR_WRONG]);

void cidr_format(const struct toa_prefix *prefix, char text[CIDR_TEXT]);

#endif
