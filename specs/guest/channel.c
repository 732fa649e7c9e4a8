/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The channel to the host: the virtio-serial port named fnat.control, or the second serial port.
 *
 * Protocol: frames in both directions, each a header of 9 bytes (number of the command and length of
 * the content, 4 bytes each, least significant first; then the kind, one letter of guest.h) and the
 * content. The guest speaks first, with HELLO; whatever comes before that is none of the protocol.
 * The host numbers commands; several run at once, and frames of different numbers come in any order.
 *
 *   host RUN words          -> STARTED, then OUT and ERR as they come, then ENDED; or REFUSED
 *   host INPUT bytes        -> TAKEN for them, once the command has them; an empty one closes its input
 *   host START words        -> STARTED or REFUSED; ENDED whenever it ends, its outputs are in /run/NUMBER.log
 *   host STOP signal        -> the signal goes to the command's process group; a number that ended is none
 *   host OFF                -> the machine goes off
 *
 * The host keeps less input on its way than the guest's serial line holds (n_tty 4 KiB, and 64 KiB
 * before it), since nothing else holds the host back there: hence TAKEN.
 */
#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define HEADER 9
#define PORTS "/sys/class/virtio-ports"
#define PORT_NAME "fnat.control\n"
#define PATIENCE 1000 /* looks for the port, 10 ms apart: it comes when the driver has asked the device */

static int channel = -1;

static int read_text(const char *path, char *text, size_t size)
{
	int from = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = from < 0 ? -1 : read(from, text, size - 1);

	if (from >= 0)
		close(from);
	text[got < 0 ? 0 : got] = '\0';
	return got < 0 ? -1 : 0;
}

static void pause_shortly(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 10 * 1000 * 1000}, NULL);
}

/* The port's node, made from what sysfs says where nobody else made it. */
static int open_node(const char *name)
{
	char path[300], numbers[32];
	unsigned major_number, minor_number;

	snprintf(path, sizeof path, PORTS "/%s/dev", name);
	if (read_text(path, numbers, sizeof numbers) || sscanf(numbers, "%u:%u", &major_number, &minor_number) != 2)
		return -1;
	snprintf(path, sizeof path, "/dev/%s", name);
	mknod(path, S_IFCHR | 0600, makedev(major_number, minor_number)); /* may be there */
	return open(path, O_RDWR | O_CLOEXEC);
}

static int find_port(void)
{
	char path[300], name[64];
	struct dirent *entry;
	int found = -1;
	DIR *ports = opendir(PORTS);

	while (ports && found < 0 && (entry = readdir(ports))) {
		snprintf(path, sizeof path, PORTS "/%s/name", entry->d_name);
		if (entry->d_name[0] != '.' && !read_text(path, name, sizeof name) && !strcmp(name, PORT_NAME))
			found = open_node(entry->d_name);
	}
	if (ports)
		closedir(ports);
	return found;
}

static int open_virtio(int looks)
{
	int found = find_port();

	for (; found < 0 && looks > 0; looks--) {
		pause_shortly();
		found = find_port();
	}
	if (found < 0)
		errno = ENODEV;
	return found;
}

static int open_serial(void)
{
	struct termios line;
	int found = open("/dev/ttyS1", O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (found < 0 || tcgetattr(found, &line))
		return -1;
	cfmakeraw(&line);
	line.c_cflag |= CLOCAL | CREAD;
	cfsetspeed(&line, B115200);
	return tcsetattr(found, TCSANOW, &line) ? -1 : found;
}

int channel_open(void)
{
	char which[16];

	if (kernel_option("fnat.channel", which, sizeof which) == 0 && strcmp(which, "serial") == 0)
		channel = open_serial();
	else
		channel = open_virtio(PATIENCE);
	if (channel < 0)
		say("no channel: %s", strerror(errno));
	return channel < 0 ? -1 : 0;
}

int channel_descriptor(void)
{
	return channel;
}

void channel_send(unsigned number, enum frame_kind kind, const void *content, size_t length)
{
	static unsigned char whole[HEADER + FRAME_MOST]; /* one write, so that a small frame is one interrupt */
	uint32_t words[2] = {number, (uint32_t)length};

	memcpy(whole, words, sizeof words);
	whole[8] = (unsigned char)kind;
	memcpy(whole + HEADER, content, length);
	if (write_all(channel, whole, HEADER + length))
		say("channel broken: %s", strerror(errno));
}

/* Handles every whole frame of the buffer; how many bytes they were. */
static size_t take_frames(const unsigned char *data, size_t held, void (*handle)(const struct frame *))
{
	size_t at = 0;
	uint32_t words[2];

	while (held - at >= HEADER) {
		struct frame frame;

		memcpy(words, data + at, sizeof words);
		if (words[1] > FRAME_MOST) {
			say("channel broken: a frame of %u bytes", words[1]);
			return held;
		}
		if (held - at < HEADER + words[1])
			break;
		frame = (struct frame){words[0], words[1], data[at + 8], data + at + HEADER};
		handle(&frame);
		at += HEADER + words[1];
	}
	return at;
}

void channel_receive(void (*handle)(const struct frame *))
{
	static unsigned char data[2 * (HEADER + FRAME_MOST)];
	static size_t held;
	ssize_t got = read(channel, data + held, sizeof data - held);
	size_t taken;

	if (got <= 0) { /* nobody at the other end: a port says so for ever */
		pause_shortly();
		return;
	}
	held += (size_t)got;
	taken = take_frames(data, held, handle);
	memmove(data, data + taken, held - taken);
	held -= taken;
}
