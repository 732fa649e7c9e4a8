/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The BPF programs and their maps: loaded, attached, pinned, replaced, removed. */
#ifndef LVS_TOA_PROGRAMS_H
#define LVS_TOA_PROGRAMS_H

#include <stdbool.h>

#include "config.h"
#include "host.h"
#include "toa.h"

#define PINS BPFFS "/lvs-toa"

enum program { SOCKOPS, GETPEERNAME4, GETPEERNAME6, PROGRAMS };

/* One attached program, as the kernel tells. An id of 0: it is not there. */
struct attached {
	const char *name;
	unsigned int program_id;
	unsigned long long cgroup_id;
};

struct running {
	struct attached programs[PROGRAMS];
	unsigned int attached; /* how many of them */
	bool pins; /* whether anything is kept, attached or not */
};

/* Wait until no other lvs-toa changes anything. Ends with this process. */
bool programs_lock(void);

/* Load the programs and attach them, in the place of those that are attached. What fails is said. */
bool programs_start(const struct config *config, const struct cgroup *cgroup);

/* Detach the programs and remove everything. What fails is said. */
bool programs_stop(void);

/* False, and said, when the kernel does not let this process look. */
bool programs_look(struct running *running);

/* Open a map of the running programs by its name. Below 0, and said, without one. */
int programs_map(const char *name);

/* Bring trusted prefixes to what the configuration says, adding before removing. */
bool programs_trust(int map, const struct config *config);

bool programs_counters(unsigned long long counters[TOA_COUNTERS]);

#endif
