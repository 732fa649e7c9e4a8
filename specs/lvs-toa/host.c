// SPDX-License-Identifier: GPL-2.0-or-later
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "host.h"
#include "say.h"

#define OLDEST_MAJOR 5
#define OLDEST_MINOR 10
#define MOUNTS "/proc/self/mountinfo"

static bool kernel_is_new_enough(void)
{
	unsigned int major = 0, minor = 0;
	struct utsname name;

	if (uname(&name) || sscanf(name.release, "%u.%u", &major, &minor) != 2)
		snprintf(name.release, sizeof(name.release), "unknown");
	if (major > OLDEST_MAJOR || (major == OLDEST_MAJOR && minor >= OLDEST_MINOR))
		return true;
	say_error(
		"kernel",
		"older kernels do not show TCP options to BPF programs, nor ask them for getpeername",
		"boot a newer kernel, or one with a toa module of its own",
		"%s is too old; expected %d.%d or newer", name.release, OLDEST_MAJOR, OLDEST_MINOR);
	return false;
}

/* CAP_PERFMON is what the verifier wants for a walk through a packet's options. */
static const struct {
	unsigned int bit;
	const char *name;
} wanted[] = { { CAP_BPF, "CAP_BPF" },
	       { CAP_NET_ADMIN, "CAP_NET_ADMIN" },
	       { CAP_PERFMON, "CAP_PERFMON" } };

static bool has_rights(void)
{
	unsigned long long effective = 0;
	char line[256], lacking[128] = "";
	FILE *file = fopen("/proc/self/status", "re");
	size_t i;

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "CapEff: %llx", &effective) == 1)
			break;
	if (file)
		fclose(file);
	for (i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		if (effective & (1ULL << wanted[i].bit | 1ULL << CAP_SYS_ADMIN))
			continue;
		strcat(strcat(lacking, *lacking ? ", " : ""), wanted[i].name);
	}
	if (!*lacking)
		return true;
	say_error("rights", "without them the kernel takes no such BPF programs",
		  "run lvs-toa as root", "this process lacks %s", lacking);
	return false;
}

static bool kernel_has_bpf(void)
{
	int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "toa_probe", sizeof(__u32), sizeof(__u32), 1,
				NULL);
	int problem = errno;

	if (fd >= 0) {
		close(fd);
		return true;
	}
	if (problem == ENOSYS)
		say_error("kernel", "the TCP option is read by BPF programs",
			  "boot a kernel with CONFIG_BPF_SYSCALL=y and CONFIG_CGROUP_BPF=y",
			  "has no bpf system call");
	else if (problem == EPERM)
		say_error(
			"kernel",
			"the capabilities are there, so a container, seccomp or a lockdown forbids it",
			"run lvs-toa on the machine itself, outside of containers",
			"refuses BPF to this process (%s)", strerror(problem));
	else
		say_error("kernel",
			  "settings, trusted directors and clients' addresses are kept in such",
			  "see the kernel's log", "cannot make a BPF map: %s", strerror(problem));
	return false;
}

static bool kernel_has_programs(void)
{
	if (libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, NULL) == 1 &&
	    libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_SOCK_OPS, NULL) == 1)
		return true;
	say_error("kernel", "the programs are attached to a cgroup, and hold for its sockets",
		  "boot a kernel with CONFIG_CGROUP_BPF=y",
		  "takes no BPF programs for sockets of cgroups");
	return false;
}

static bool has_bpffs(void)
{
	struct statfs found;

	if (!statfs(BPFFS, &found) && (unsigned long)found.f_type == BPF_FS_MAGIC)
		return true;
	say_error(
		"BPF's file system",
		"the programs are kept in it when lvs-toa ends, and found there by the next start",
		"mount -t bpf bpf " BPFFS, "is not mounted; expected it at " BPFFS);
	return false;
}

bool host_can_run(void)
{
	return kernel_is_new_enough() && has_rights() && kernel_has_bpf() &&
	       kernel_has_programs() && has_bpffs();
}

/* Turn mountinfo's \040 back into what it stands for. */
static void unescape(char *text)
{
	char *to = text;

	for (; *text; text++, to++) {
		if (*text == '\\' && strspn(text + 1, "01234567") >= 3) {
			char digits[4] = { text[1], text[2], text[3], 0 };

			*to = (char)strtoul(digits, NULL, 8);
			text += 3;
		} else {
			*to = *text;
		}
	}
	*to = 0;
}

/* Find where the cgroup2 hierarchy is mounted whole. False when it is not. */
static bool find_mount(char path[PATH_MAX])
{
	char line[3 * PATH_MAX], root[PATH_MAX];
	FILE *file = fopen(MOUNTS, "re");
	bool found = false;

	while (!found && file && fgets(line, sizeof(line), file)) {
		const char *type = strstr(line, " - ");

		if (!type || strncmp(type + 3, "cgroup2 ", strlen("cgroup2 ")))
			continue;
		if (sscanf(line, "%*s %*s %*s %4095s %4095s", root, path) == 2) {
			unescape(path);
			found = !strcmp(root, "/");
		}
	}
	if (file)
		fclose(file);
	return found;
}

static bool cgroup_id(int fd, unsigned long long *id)
{
	union {
		struct file_handle handle;
		char space[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} found = { .handle = { .handle_bytes = MAX_HANDLE_SZ } };
	int mount;

	if (name_to_handle_at(fd, "", &found.handle, &mount, AT_EMPTY_PATH) ||
	    found.handle.handle_bytes != sizeof(*id))
		return false;
	memcpy(id, found.handle.f_handle, sizeof(*id));
	return true;
}

static bool open_as_cgroup(const char *path, struct cgroup *cgroup)
{
	struct statfs found;

	snprintf(cgroup->path, sizeof(cgroup->path), "%s", path);
	cgroup->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (cgroup->fd < 0)
		return false;
	if (!fstatfs(cgroup->fd, &found) && found.f_type == CGROUP2_SUPER_MAGIC &&
	    cgroup_id(cgroup->fd, &cgroup->id))
		return true;
	close(cgroup->fd);
	cgroup->fd = -1;
	errno = EINVAL;
	return false;
}

bool host_open_cgroup(const char *configured, struct cgroup *cgroup)
{
	char path[PATH_MAX];

	if (*configured) {
		if (open_as_cgroup(configured, cgroup))
			return true;
		say_error(
			"cgroup",
			"the programs hold for the sockets of a cgroup, and need one of the second version",
			"correct or remove the setting cgroup", "%s is not one of cgroup2: %s",
			configured, errno == EINVAL ? "of another file system" : strerror(errno));
		return false;
	}
	if (!find_mount(path) || !open_as_cgroup(path, cgroup)) {
		say_error(
			"cgroup",
			"the programs are attached to its root, and hold for every socket below",
			"mount -t cgroup2 cgroup2 /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1",
			"no cgroup2 hierarchy is mounted");
		return false;
	}
	/* Only the true root has no type: what a container has as its root does. */
	if (!faccessat(cgroup->fd, "cgroup.type", F_OK, 0)) {
		close(cgroup->fd);
		say_error(
			"cgroup",
			"it is a container's own root: sockets outside of it would lose their clients in silence",
			"start lvs-toa on the machine itself, or name the directory as the setting cgroup, if that is meant",
			"%s is not the hierarchy's root", path);
		return false;
	}
	return true;
}

static bool is_cgroup(const char *path, unsigned long long id)
{
	struct cgroup cgroup;

	if (!open_as_cgroup(path, &cgroup))
		return false;
	close(cgroup.fd);
	return cgroup.id == id;
}

bool host_cgroup_path(const char *configured, unsigned long long id, char path[PATH_MAX])
{
	if (find_mount(path) && is_cgroup(path, id))
		return true;
	snprintf(path, PATH_MAX, "%s", configured);
	return *configured && is_cgroup(configured, id);
}
