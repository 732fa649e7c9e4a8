/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Servers that say whom they see. Their body line, for HTTP and for datagrams alike:
 *
 *   NAME PEER-ADDRESS PEER-PORT LOCAL-ADDRESS LOCAL-PORT
 *
 * The peer is what getpeername tells, which is what the toa module changes. HTTP/1.0, a process for
 * each connection: / answers the line, /bytes/N a stream of N bytes that is the same each time,
 * /hold/S the line after S seconds; anything else is 404.
 */
#include "guest.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REQUEST_SIZE 4096
#define PATIENCE 10000 /* milliseconds for a request, and for the other end to close */

static int listen_at(int family, int kind, const char *port)
{
	struct sockaddr_in four = {.sin_family = AF_INET};
	struct sockaddr_in6 six = {.sin6_family = AF_INET6};
	int socket_at = socket(family, kind, 0), on = 1, off = 0;
	int failed;

	four.sin_port = six.sin6_port = htons((uint16_t)atoi(port));
	setsockopt(socket_at, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (family == AF_INET6) {
		setsockopt(socket_at, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
		failed = bind(socket_at, (void *)&six, sizeof six);
	} else {
		failed = bind(socket_at, (void *)&four, sizeof four);
	}
	if (failed || (kind == SOCK_STREAM && listen(socket_at, 1024))) {
		fprintf(stderr, "port %s: %s\n", port, strerror(errno));
		exit(1);
	}
	return socket_at;
}

static void body_line(char *line, const char *name, const struct sockaddr *peer, const struct sockaddr *local)
{
	char theirs[ADDRESS_SIZE], ours[ADDRESS_SIZE];
	unsigned their_port, our_port;

	address_text(peer, theirs, &their_port);
	address_text(local, ours, &our_port);
	snprintf(line, LINE_SIZE, "%s %s %u %s %u\n", name, theirs, their_port, ours, our_port);
}

/* Reads until the empty line that ends the request's head; its path, or NULL. */
static char *path_of_request(int connection, char *request)
{
	size_t held = 0;
	struct pollfd wait = {.fd = connection, .events = POLLIN};

	request[0] = '\0';
	while (!strstr(request, "\r\n\r\n") && !strstr(request, "\n\n")) {
		ssize_t got = 0;

		if (held < REQUEST_SIZE - 1 && poll(&wait, 1, PATIENCE) > 0)
			got = read(connection, request + held, REQUEST_SIZE - 1 - held);
		if (got <= 0)
			return NULL;
		held += (size_t)got;
		request[held] = '\0';
	}
	if (strncmp(request, "GET ", 4) != 0)
		return NULL;
	return strtok(request + 4, " \r\n");
}

static void head(int connection, const char *status, unsigned long long length)
{
	char text[256];

	snprintf(text, sizeof text, "HTTP/1.0 %s\r\nContent-Type: text/plain\r\nContent-Length: %llu\r\n\r\n", status, length);
	write_all(connection, text, strlen(text));
}

/* xorshift64 (Marsaglia 2003), from a fixed start; each number least significant byte first. */
static void send_bytes(int to, unsigned long long count)
{
	static uint64_t block[1024];
	uint64_t state = 88172645463325252u;
	size_t row;

	while (count > 0) {
		size_t length = count < sizeof block ? (size_t)count : sizeof block;

		for (row = 0; row < sizeof block / sizeof *block; row++) {
			state ^= state << 13;
			state ^= state >> 7;
			state ^= state << 17;
			block[row] = state;
		}
		if (write_all(to, block, length))
			return;
		count -= length;
	}
}

static void answer_text(int connection, const char *status, const char *text)
{
	head(connection, status, strlen(text));
	write_all(connection, text, strlen(text));
}

static void answer(int connection, const char *path, const char *line)
{
	if (strncmp(path, "/bytes/", 7) == 0) {
		unsigned long long count = strtoull(path + 7, NULL, 10);

		head(connection, "200 OK", count);
		send_bytes(connection, count);
		return;
	}
	if (strncmp(path, "/hold/", 6) == 0)
		usleep((useconds_t)(strtod(path + 6, NULL) * 1e6));
	else if (strcmp(path, "/") != 0)
		line = NULL;
	answer_text(connection, line ? "200 OK" : "404 Not Found", line ? line : "no such path\n");
}

/* Closing with something unread would be a reset, which takes the answer away from the other end. */
static void close_gently(int connection)
{
	char rest[512];
	struct pollfd wait = {.fd = connection, .events = POLLIN};

	shutdown(connection, SHUT_WR);
	while (poll(&wait, 1, PATIENCE) > 0 && read(connection, rest, sizeof rest) > 0)
		continue;
	close(connection);
}

static void serve_connection(int connection, const char *name)
{
	struct sockaddr_storage peer = {0}, local = {0};
	socklen_t peer_size = sizeof peer, local_size = sizeof local;
	static char request[REQUEST_SIZE];
	char line[LINE_SIZE];
	char *path;

	getpeername(connection, (void *)&peer, &peer_size);
	getsockname(connection, (void *)&local, &local_size);
	body_line(line, name, (void *)&peer, (void *)&local);
	path = path_of_request(connection, request);
	if (path)
		answer(connection, path, line);
	close_gently(connection);
}

int serve_main(int count, char **words)
{
	int six = count == 4 && strcmp(words[3], "6") == 0;
	int listener;

	if (count < 3 || count > 4 || (count == 4 && !six && strcmp(words[3], "4") != 0))
		return usage();
	signal(SIGCHLD, SIG_IGN); /* children leave no zombies */
	signal(SIGPIPE, SIG_IGN);
	listener = listen_at(six ? AF_INET6 : AF_INET, SOCK_STREAM, words[2]);
	for (;;) {
		int connection = accept(listener, NULL, NULL);

		if (connection < 0)
			continue;
		if (fork() == 0) {
			close(listener);
			serve_connection(connection, words[1]);
			_exit(0);
		}
		close(connection);
	}
}

/* Where a datagram was sent to: told by the kernel with it, since the socket is bound to no address. */
static void local_of(struct msghdr *message, struct sockaddr_in *local)
{
	struct cmsghdr *note;

	for (note = CMSG_FIRSTHDR(message); note; note = CMSG_NXTHDR(message, note))
		if (note->cmsg_level == IPPROTO_IP && note->cmsg_type == IP_PKTINFO)
			memcpy(&local->sin_addr, CMSG_DATA(note) + offsetof(struct in_pktinfo, ipi_addr), sizeof local->sin_addr);
}

int serve_udp_main(int count, char **words)
{
	struct sockaddr_in peer, local = {.sin_family = AF_INET};
	char data[2048], notes[256], line[LINE_SIZE];
	struct iovec part = {data, sizeof data};
	int bound, on = 1;

	if (count != 3)
		return usage();
	bound = listen_at(AF_INET, SOCK_DGRAM, words[2]);
	setsockopt(bound, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
	local.sin_port = htons((uint16_t)atoi(words[2]));
	for (;;) {
		struct msghdr message = {.msg_name = &peer, .msg_namelen = sizeof peer, .msg_iov = &part, .msg_iovlen = 1,
					 .msg_control = notes, .msg_controllen = sizeof notes};

		if (recvmsg(bound, &message, 0) < 0)
			continue;
		local_of(&message, &local);
		body_line(line, words[1], (void *)&peer, (void *)&local);
		message.msg_iov = &(struct iovec){line, strlen(line)};
		sendmsg(bound, &message, 0); /* with the note: the answer leaves from where it was asked */
	}
}

int bytes_main(int count, char **words)
{
	if (count != 2)
		return usage();
	send_bytes(STDOUT_FILENO, strtoull(words[1], NULL, 10));
	return 0;
}
