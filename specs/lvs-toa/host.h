/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the programs need of this machine. */
#ifndef LVS_TOA_HOST_H
#define LVS_TOA_HOST_H

#include <limits.h>
#include <stdbool.h>

#define BPFFS "/sys/fs/bpf"

/* A cgroup that programs can be attached to. */
struct cgroup {
	char path[PATH_MAX];
	unsigned long long id;
	int fd;
};

/* Examine kernel, rights, BPF and its file system. What lacks is said; false if something does. */
bool host_can_run(void);

/* Open the configured cgroup, or with an empty path the root. What is wrong is said; false then. */
bool host_open_cgroup(const char *configured, struct cgroup *cgroup);

/* Find the path of a cgroup by its id: the root's or `configured`. False for any other. */
bool host_cgroup_path(const char *configured, unsigned long long id, char path[PATH_MAX]);

#endif
