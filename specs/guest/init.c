/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Process 1: file systems, devices, modules, then the agent. What it says goes to the console, each
 * line begun with "fnat: "; the host's watcher knows "module PATH refused: REASON", "no channel: REASON"
 * and "guest ready". Of the kernel's command line it takes fnat.channel=virtio or serial, and fnat.name=
 * for the host's name. Network addresses and everything else are left to commands of the host.
 */
#define _GNU_SOURCE /* sethostname, strsep */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define MODULES "/etc/fnat/modules" /* absolute paths, one a line, in the order of loading; then parameters */

/* For a kernel without devtmpfs. */
static const struct {
	const char *path;
	mode_t mode;
	unsigned major_number, minor_number;
} nodes[] = {
	{"/dev/null", 0666, 1, 3},    {"/dev/zero", 0666, 1, 5},   {"/dev/random", 0666, 1, 8}, {"/dev/urandom", 0666, 1, 9},
	{"/dev/kmsg", 0600, 1, 11},   {"/dev/tty", 0666, 5, 0},	   {"/dev/console", 0600, 5, 1}, {"/dev/ptmx", 0666, 5, 2},
	{"/dev/ttyS0", 0600, 4, 64}, {"/dev/ttyS1", 0600, 4, 65},
};

void say(const char *format, ...)
{
	char line[1024] = "fnat: ";
	va_list values;
	int length;

	va_start(values, format);
	length = vsnprintf(line + 6, sizeof line - 7, format, values);
	va_end(values);
	length = length < (int)sizeof line - 8 ? length : (int)sizeof line - 8;
	line[6 + length] = '\n';
	write_all(STDERR_FILENO, line, (size_t)length + 7); /* at once, else the kernel's lines cut it in two */
}

int kernel_option(const char *name, char *value, size_t size)
{
	char options[4096], *rest = options, *word;
	size_t length = strlen(name);
	int from = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t got = from < 0 ? -1 : read(from, options, sizeof options - 1);

	if (from >= 0)
		close(from);
	options[got < 0 ? 0 : got] = '\0';
	while ((word = strsep(&rest, " \n")))
		if (strncmp(word, name, length) == 0 && word[length] == '=') {
			snprintf(value, size, "%s", word + length + 1);
			return 0;
		}
	return -1;
}

static int mount_at(const char *kind, const char *place, const char *options)
{
	mkdir(place, 0755);
	return mount(kind, place, kind, 0, options);
}

static void make_nodes(void)
{
	size_t row;

	for (row = 0; row < sizeof nodes / sizeof *nodes; row++)
		mknod(nodes[row].path, S_IFCHR | nodes[row].mode, makedev(nodes[row].major_number, nodes[row].minor_number));
}

static void mount_all(void)
{
	umask(0);
	mount_at("proc", "/proc", NULL);
	mount_at("sysfs", "/sys", NULL);
	if (mount_at("devtmpfs", "/dev", NULL))
		make_nodes();
	mount_at("devpts", "/dev/pts", "mode=0620");
	mount_at("tmpfs", "/run", "mode=0755");
	mount_at("tmpfs", "/tmp", "mode=1777");
	umask(022);
}

/* The kernel gave us its console, but of an initramfs without the node it had none to give. */
static void take_console(void)
{
	int console = open("/dev/console", O_RDWR | O_NOCTTY);
	int descriptor;

	for (descriptor = 0; console >= 0 && descriptor < 3; descriptor++)
		dup2(console, descriptor);
	if (console > 2)
		close(console);
}

/* The file's content, to be freed; NULL with errno. */
static void *whole_file(const char *path, size_t *size)
{
	int from = open(path, O_RDONLY | O_CLOEXEC);
	struct stat about;
	char *content = NULL;
	size_t held = 0;
	ssize_t got = 1;

	if (from < 0)
		return NULL;
	if (fstat(from, &about) == 0)
		content = malloc((size_t)about.st_size + 1);
	while (content && held < (size_t)about.st_size && got > 0) {
		got = read(from, content + held, (size_t)about.st_size - held);
		held += got > 0 ? (size_t)got : 0;
	}
	close(from);
	if (content)
		content[held] = '\0';
	*size = held;
	return content;
}

static void load_module(const char *path, const char *parameters)
{
	size_t size = 0;
	void *content = whole_file(path, &size);

	/* init_module, since 2.6.32 has no finit_module. What is there already is what was wanted. */
	if (!content)
		say("module %s refused: %s", path, strerror(errno));
	else if (syscall(SYS_init_module, content, size, parameters) && errno != EEXIST)
		say("module %s refused: %s", path, errno == ENOENT ? "Unknown symbol in module" : strerror(errno));
	free(content);
}

static void load_modules(void)
{
	size_t size = 0;
	char *list = whole_file(MODULES, &size);
	char *rest = list, *line;

	while (rest && (line = strsep(&rest, "\n"))) {
		char *path = strsep(&line, " ");

		if (*path)
			load_module(path, line ? line : "");
	}
	free(list);
}

int init_main(void)
{
	char name[64];

	mount_all();
	take_console();
	say("init runs");
	if (kernel_option("fnat.name", name, sizeof name) == 0)
		sethostname(name, strlen(name));
	setenv("PATH", "/sbin:/usr/sbin:/bin:/usr/bin", 1);
	setenv("HOME", "/", 1);
	setenv("TERM", "linux", 1);
	if (chdir("/"))
		say("no root directory: %s", strerror(errno));
	load_modules();
	if (channel_open() == 0)
		agent_main();
	for (;;)
		pause(); /* an init that ends is a panic, which would hide what was said */
}
