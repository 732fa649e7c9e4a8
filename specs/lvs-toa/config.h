/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The configuration file. */
#ifndef LVS_TOA_CONFIG_H
#define LVS_TOA_CONFIG_H

#include <limits.h>
#include <stdbool.h>

#include "toa.h"

#define CONFIG_FILE "/etc/lvs-toa.conf"

struct config {
	struct toa_settings settings;
	char cgroup[PATH_MAX]; /* empty: the root of the cgroup2 hierarchy, wherever it is mounted */
	unsigned int prefixes;
	struct toa_prefix trusted[TOA_PREFIXES];
};

/* Read a file. Every mistake is said; false if there was one. */
bool config_read(const char *path, struct config *config);

bool config_trusts(const struct config *config, const struct toa_prefix *prefix);

unsigned int config_kinds(const struct toa_settings *settings);

#endif
