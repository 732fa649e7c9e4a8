// SPDX-License-Identifier: GPL-2.0-or-later
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "programs.h"
#include "say.h"

#define LOG_KEPT 8192 /* bytes of what libbpf says, the last ones */
#define LOG_SHOWN 1500
#define PIN_PATH 128

extern const char toa_object[], toa_object_end[];

static const struct {
	const char *name;
	enum bpf_attach_type type;
} known[PROGRAMS] = {
	[SOCKOPS] = { "toa_sockops", BPF_CGROUP_SOCK_OPS },
	[GETPEERNAME4] = { "toa_getpeername4", BPF_CGROUP_INET4_GETPEERNAME },
	[GETPEERNAME6] = { "toa_getpeername6", BPF_CGROUP_INET6_GETPEERNAME },
};

static char log_text[LOG_KEPT];

static int keep_log(enum libbpf_print_level level, const char *format, va_list words)
{
	char text[LOG_KEPT];
	size_t have, more;

	if (level == LIBBPF_DEBUG)
		return 0;
	vsnprintf(text, sizeof(text), format, words);
	more = strlen(text);
	have = strlen(log_text);
	if (have + more >= sizeof(log_text)) {
		size_t drop = have + more + 1 - sizeof(log_text);

		memmove(log_text, log_text + drop, have - drop + 1);
		have -= drop;
	}
	memcpy(log_text + have, text, more + 1);
	return 0;
}

static void show_log(void)
{
	size_t size = strlen(log_text);
	char *next = log_text + (size > LOG_SHOWN ? size - LOG_SHOWN : 0);
	char *line;

	while ((line = strsep(&next, "\n")))
		if (*line)
			say_plain("  | %s", line);
}

static void pin_path(char path[PIN_PATH], const char *name, const char *more)
{
	snprintf(path, PIN_PATH, "%s/%s%s", PINS, name, more);
}

bool programs_lock(void)
{
	int fd = open(BPFFS, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0 && !flock(fd, LOCK_EX))
		return true; /* left open: the lock ends with the process */
	say_error("lock", "two that change the programs at once could undo each other",
		  "run lvs-toa as root", "cannot lock %s: %s", BPFFS, strerror(errno));
	return false;
}

static bool link_at(const char *path, int *fd, struct attached *found)
{
	struct bpf_link_info info = {};
	__u32 size = sizeof(info);

	*fd = bpf_obj_get(path);
	if (*fd < 0)
		return false;
	if (bpf_obj_get_info_by_fd(*fd, &info, &size))
		info = (struct bpf_link_info){};
	found->program_id = info.prog_id;
	found->cgroup_id = info.cgroup.cgroup_id;
	return true;
}

static void refused_attachment(enum program program, int problem)
{
	if (problem == EPERM)
		say_error(
			"cgroup",
			"a program that another tool attached there lets no other beside it",
			"bpftool cgroup show on that directory names it; ask its owner for BPF_F_ALLOW_MULTI",
			"refuses the program %s", known[program].name);
	else
		say_error("cgroup", "sockets would keep the director's address",
			  "see the kernel's log", "cannot attach the program %s: %s",
			  known[program].name, strerror(problem));
}

/* Attach a program beside the one that is attached already, if any, and only then let that one go. */
static bool attach(enum program program, int fd, const struct cgroup *cgroup)
{
	char path[PIN_PATH], fresh[PIN_PATH];
	int link, problem = 0;

	pin_path(path, known[program].name, "");
	pin_path(fresh, known[program].name, "_new");
	unlink(fresh); /* of a start that was killed */
	link = bpf_link_create(fd, cgroup->fd, known[program].type, NULL);
	if (link < 0) {
		refused_attachment(program, errno);
		return false;
	}
	if (bpf_obj_pin(link, fresh))
		problem = errno;
	else if (rename(fresh, path)) {
		problem = errno;
		unlink(fresh);
	}
	close(link);
	if (problem)
		say_error("BPF's file system", "a program that is not kept there ends with lvs-toa",
			  "see whether " BPFFS " is writable", "cannot keep %s: %s", path,
			  strerror(problem));
	return !problem;
}

/* Put a program in the place of the one that is attached: in one step where it is attached to the same cgroup. */
static bool replace(enum program program, int fd, const struct cgroup *cgroup)
{
	struct attached old = {};
	char path[PIN_PATH];
	bool done = false;
	int link;

	pin_path(path, known[program].name, "");
	if (link_at(path, &link, &old)) {
		done = old.program_id && old.cgroup_id == cgroup->id &&
		       !bpf_link_update(link, fd, NULL);
		close(link);
	}
	return done || attach(program, fd, cgroup);
}

static bool maps_differ(void)
{
	return strstr(log_text, "parameter mismatch") != NULL;
}

/* Load the programs with the maps that are kept, or with new ones, which are kept then. */
static struct bpf_object *load(void)
{
	LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = "lvs_toa");
	struct bpf_object *object;
	struct bpf_map *map;
	char path[PIN_PATH];
	int problem;

	libbpf_set_print(keep_log);
	object = bpf_object__open_mem(toa_object, (size_t)(toa_object_end - toa_object), &options);
	if (!object) {
		say_error("BPF programs", "they are a part of lvs-toa", "install the package again",
			  "this program's own are damaged");
		show_log();
		return NULL;
	}
	bpf_object__for_each_map(map, object) {
		pin_path(path, bpf_map__name(map), "");
		if (bpf_map__set_pin_path(map, path))
			abort(); /* out of memory */
	}
	problem = -bpf_object__load(object);
	if (!problem)
		return object;
	if (maps_differ())
		say_error(
			"BPF maps",
			"what the running programs know of open connections cannot be taken over",
			"lvs-toa stop && lvs-toa start: open connections then show the director's address",
			"those kept in " PINS " are another version's");
	else if (problem == EPERM)
		say_error("BPF maps", "Linux before 5.11 counts them as locked memory",
			  "ulimit -l unlimited; lvs-toa start", "the kernel refuses them (%s)",
			  strerror(problem));
	else
		say_error("BPF programs", "nothing was changed: what was attached before still is",
			  "report these lines together with the kernel's version",
			  "the kernel refuses them (%s)", strerror(problem));
	show_log();
	bpf_object__close(object);
	return NULL;
}

static bool set_up(struct bpf_object *object, const struct config *config)
{
	__u32 zero = 0;

	if (!bpf_map_update_elem(bpf_object__find_map_fd_by_name(object, "toa_settings"), &zero,
				 &config->settings, BPF_ANY))
		return programs_trust(bpf_object__find_map_fd_by_name(object, "toa_trusted"),
				      config);
	say_error("BPF maps", "the programs would not know which option to read",
		  "see the kernel's log", "cannot write the settings: %s", strerror(errno));
	return false;
}

bool programs_start(const struct config *config, const struct cgroup *cgroup)
{
	struct running before;
	struct bpf_object *object;
	bool done;
	int i;

	if (!programs_look(&before))
		return false;
	if (mkdir(PINS, 0700) && errno != EEXIST) {
		say_error("BPF's file system", "the programs are kept there",
			  "see whether " BPFFS " is writable", "cannot make %s: %s", PINS,
			  strerror(errno));
		return false;
	}
	object = load();
	done = object && set_up(object, config);
	for (i = 0; done && i < PROGRAMS; i++)
		done = replace(
			i, bpf_program__fd(bpf_object__find_program_by_name(object, known[i].name)),
			cgroup);
	if (object)
		bpf_object__close(object);
	if (!done && !before.attached)
		programs_stop();
	return done;
}

bool programs_stop(void)
{
	struct attached found;
	struct dirent *entry;
	char path[PIN_PATH];
	bool clean = true;
	DIR *pins;
	int i, fd;

	for (i = 0; i < PROGRAMS; i++) {
		pin_path(path, known[i].name, "");
		if (!link_at(path, &fd, &found))
			continue;
		bpf_link_detach(fd); /* now; without a pin it would be detached some time later */
		close(fd);
	}
	pins = opendir(PINS);
	if (!pins && errno == ENOENT)
		return true;
	while (pins && (entry = readdir(pins))) {
		if (*entry->d_name == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%.64s", PINS, entry->d_name);
		clean &= !unlink(path);
	}
	if (pins)
		closedir(pins);
	if (pins && clean && !rmdir(PINS))
		return true;
	say_error("BPF's file system", "what is pinned stays in the kernel", "rm -r " PINS,
		  "cannot remove %s: %s", PINS, strerror(errno));
	return false;
}

bool programs_look(struct running *running)
{
	char path[PIN_PATH];
	int i, fd;

	memset(running, 0, sizeof(*running));
	running->pins = !access(PINS, F_OK);
	if (!running->pins && errno != ENOENT) {
		say_error("rights", "what is attached is kept there", "run lvs-toa as root",
			  "cannot look into " BPFFS ": %s", strerror(errno));
		return false;
	}
	for (i = 0; i < PROGRAMS; i++) {
		running->programs[i].name = known[i].name;
		pin_path(path, known[i].name, "");
		if (!link_at(path, &fd, &running->programs[i])) {
			if (errno != EPERM && errno != EACCES)
				continue;
			say_error("rights", "only root may see what is attached",
				  "run lvs-toa as root", "cannot look at the programs: %s",
				  strerror(errno));
			return false;
		}
		close(fd);
		/* A link whose cgroup was removed stays, attached to nothing. */
		running->attached += running->programs[i].program_id &&
				     running->programs[i].cgroup_id;
	}
	return true;
}

int programs_map(const char *name)
{
	char path[PIN_PATH];
	int fd;

	pin_path(path, name, "");
	fd = bpf_obj_get(path);
	if (fd < 0 && errno == ENOENT)
		say_error("programs", "the kernel keeps this with them", "lvs-toa start",
			  "not attached: lvs-toa is not started");
	else if (fd < 0)
		say_error("rights", "only root may see what is attached", "run lvs-toa as root",
			  "cannot open %s: %s", path, strerror(errno));
	return fd;
}

/* Remove one prefix that the configuration does not name. False when there is none, or it stays. */
static bool remove_one(int map, const struct config *config)
{
	struct toa_prefix key, next;
	void *from = NULL;

	while (!bpf_map_get_next_key(map, from, &next)) {
		if (!config_trusts(config, &next))
			return !bpf_map_delete_elem(map, &next);
		key = next;
		from = &key;
	}
	return false;
}

/* One after another from the first: a walk from a key that is gone would begin there anyway. */
static bool remove_others(int map, const struct config *config)
{
	errno = 0;
	while (remove_one(map, config))
		;
	return errno == ENOENT;
}

static bool add_all(int map, const struct config *config)
{
	__u32 one = 1;
	unsigned int i;

	for (i = 0; i < config->prefixes; i++) {
		if (!bpf_map_update_elem(map, &config->trusted[i], &one, BPF_ANY))
			continue;
		/* No space for the old ones beside the new. */
		if (errno != ENOSPC || !remove_others(map, config) ||
		    bpf_map_update_elem(map, &config->trusted[i], &one, BPF_ANY))
			return false;
	}
	return true;
}

bool programs_trust(int map, const struct config *config)
{
	if (add_all(map, config) && remove_others(map, config))
		return true;
	say_error("trust", "directors could be believed, or ignored, otherwise than configured",
		  "lvs-toa trust list shows what holds now", "cannot change the prefixes: %s",
		  strerror(errno));
	return false;
}

bool programs_counters(unsigned long long counters[TOA_COUNTERS])
{
	int cpu, cpus = libbpf_num_possible_cpus(), map = programs_map("toa_counters");
	__u64 *values = cpus > 0 ? calloc((size_t)cpus, sizeof(*values)) : NULL;
	bool done = map >= 0 && values;
	__u32 i;

	memset(counters, 0, TOA_COUNTERS * sizeof(*counters));
	for (i = 0; done && i < TOA_COUNTERS; i++) {
		done = !bpf_map_lookup_elem(map, &i, values);
		for (cpu = 0; done && cpu < cpus; cpu++)
			counters[i] += values[cpu];
	}
	free(values);
	if (map >= 0)
		close(map);
	return done;
}
