/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For the tree's kconfig, which writes the time into a header that every file includes: the build's
 * own time. With another one each time the compiler cache would have to preprocess every file, and
 * no two kernel-devel packages were the same.
 */
#include <stdlib.h>
#include <time.h>

static inline time_t time_of_build(time_t *into)
{
	const char *epoch = getenv("SOURCE_DATE_EPOCH");

	return epoch ? (*into = (time_t)atoll(epoch)) : time(into);
}
#define time(into) time_of_build(into)
