/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The lab's one program inside a guest: init, agent, servers and askers, static and without any file
 * of its own. As process 1 it is init (init.c) and then the agent (agent.c) that runs what the host
 * asks for over the channel (channel.c, where the protocol is told). By its first word it is else
 *
 *   serve NAME PORT [4|6]      an HTTP server that says whom it sees (serve.c)
 *   serve-udp NAME PORT        the same with datagrams
 *   serve-close NAME PORT S    says it on each connection, and closes it first, after S seconds
 *   bytes N                    the N bytes that a server's /bytes/N answers, on standard output (bytes.c)
 *   post ADDRESS PORT N [--timeout S]                the same bytes to a server, which digests them
 *   ask ADDRESS PORT PATH COUNT [--timeout S] [--body] [--together]        (ask.c)
 *   ask-udp ADDRESS PORT TEXT COUNT [--timeout S] [--together]
 *   connect ADDRESS PORT COUNT [--timeout S] [--together]     sends nothing, waits for the server's close
 *   offload DEVICE [on|off]    checksums and segmentation by the card (offload.c)
 *   path-mtu ADDRESS           the MTU of the way there, as the kernel knows it (path_mtu.c)
 *   read PATH                  a file's content on standard output
 *   terminal ROWS COLUMNS WORD...   a command at a terminal of its own (terminal.c)
 *   resize ROWS COLUMNS        the terminals' new size
 *   write MODE PATH            standard input into a file, the directories above it are made
 *
 * Runs on Linux 2.6.32 and later. Build: musl-gcc -static -Os -Wall -Wextra -Werror *.c
 */
#include "guest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int usage(void)
{
	fputs("usage: fnat-guest serve NAME PORT [4|6] | serve-udp NAME PORT | serve-close NAME PORT S\n"
	      "       ask ADDRESS PORT PATH COUNT [--timeout S] [--body] [--together]\n"
	      "       ask-udp ADDRESS PORT TEXT COUNT [--timeout S] [--together]\n"
	      "       connect ADDRESS PORT COUNT [--timeout S] [--together]\n"
	      "       bytes N | post ADDRESS PORT N [--timeout S] | offload DEVICE [on|off] | path-mtu ADDRESS\n"
	      "       read PATH | write MODE PATH | terminal ROWS COLUMNS WORD...\n"
	      "       resize ROWS COLUMNS\n", stderr);
	return 2;
}

int write_all(int descriptor, const void *data, size_t length)
{
	const char *from = data;

	while (length > 0) {
		ssize_t done = write(descriptor, from, length);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -1;
		from += done;
		length -= (size_t)done;
	}
	return 0;
}

/* An IPv4 address mapped into IPv6 is told as the IPv4 address that it is. */
void address_text(const struct sockaddr *address, char *text, unsigned *port)
{
	const struct sockaddr_in *four = (const void *)address;
	const struct sockaddr_in6 *six = (const void *)address;

	strcpy(text, "?");
	*port = 0;
	if (address->sa_family == AF_INET) {
		inet_ntop(AF_INET, &four->sin_addr, text, ADDRESS_SIZE);
		*port = ntohs(four->sin_port);
	} else if (address->sa_family == AF_INET6) {
		if (IN6_IS_ADDR_V4MAPPED(&six->sin6_addr))
			inet_ntop(AF_INET, six->sin6_addr.s6_addr + 12, text, ADDRESS_SIZE);
		else
			inet_ntop(AF_INET6, &six->sin6_addr, text, ADDRESS_SIZE);
		*port = ntohs(six->sin6_port);
	}
}

socklen_t address_of(const char *address, const char *port, struct sockaddr_storage *found)
{
	struct sockaddr_in *four = (void *)found;
	struct sockaddr_in6 *six = (void *)found;

	if (inet_pton(AF_INET, address, &four->sin_addr) == 1) {
		found->ss_family = AF_INET;
		four->sin_port = htons((uint16_t)atoi(port));
		return sizeof *four;
	}
	if (inet_pton(AF_INET6, address, &six->sin6_addr) == 1) {
		found->ss_family = AF_INET6;
		six->sin6_port = htons((uint16_t)atoi(port));
		return sizeof *six;
	}
	return 0;
}

static int failed(const char *path)
{
	fprintf(stderr, "%s: %s\n", path, strerror(errno));
	return 1;
}

/* Until the end of `from`; the name is whose failure it would be. */
static int copy(int from, int to, const char *path)
{
	static char buffer[1 << 16];
	ssize_t got;

	while ((got = read(from, buffer, sizeof buffer)) != 0) {
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 || write_all(to, buffer, (size_t)got))
			return failed(path);
	}
	return 0;
}

static int read_main(int count, char **words)
{
	int from;

	if (count != 2)
		return usage();
	from = open(words[1], O_RDONLY);
	return from < 0 ? failed(words[1]) : copy(from, STDOUT_FILENO, words[1]);
}

static void make_directories_above(const char *path)
{
	char above[PATH_MAX];
	char *slash;

	snprintf(above, sizeof above, "%s", path);
	for (slash = strchr(above + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		mkdir(above, 0755); /* what cannot be made is told when the file is opened */
		*slash = '/';
	}
}

static int write_main(int count, char **words)
{
	mode_t mode;
	int to;

	if (count != 3)
		return usage();
	mode = (mode_t)strtoul(words[1], NULL, 8);
	make_directories_above(words[2]);
	to = open(words[2], O_WRONLY | O_CREAT | O_TRUNC, mode);
	if (to < 0)
		return failed(words[2]);
	fchmod(to, mode); /* the file may have been there; one of /proc keeps its own */
	if (copy(STDIN_FILENO, to, words[2]))
		return 1;
	return close(to) ? failed(words[2]) : 0;
}

static const struct {
	const char *name;
	int (*main)(int count, char **words);
} commands[] = {
	{"serve", serve_main},	 {"serve-udp", serve_udp_main}, {"serve-close", serve_close_main}, {"ask", ask_main},
	{"ask-udp", ask_main},	 {"connect", ask_main},		{"bytes", bytes_main},		   {"post", post_main},
	{"read", read_main},	 {"write", write_main},		{"terminal", terminal_main},	   {"resize", resize_main},
	{"offload", offload_main}, {"path-mtu", path_mtu_main},
};

int main(int count, char **words)
{
	size_t row;

	if (getpid() == 1)
		return init_main();
	for (row = 0; count > 1 && row < sizeof commands / sizeof *commands; row++)
		if (strcmp(words[1], commands[row].name) == 0)
			return commands[row].main(count - 1, words + 1);
	return usage();
}
