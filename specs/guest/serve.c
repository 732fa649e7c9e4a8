/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Servers that say whom they see. Their body line, for HTTP and for datagrams alike:
 *
 *   NAME PEER-ADDRESS PEER-PORT LOCAL-ADDRESS LOCAL-PORT
 *
 * The peer is what getpeername tells, which is what the toa module changes. HTTP/1.0, a process for
 * each connection: / answers the line, /bytes/N a stream of N bytes that is the same each time,
 * /hold/S the line after S seconds; anything else is 404. What is posted is answered with the line, and
 * a second one with its length and digest.
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
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define REQUEST_SIZE 4096
#define HELD_MOST 4096 /* connections that serve-close keeps open */
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

static void line_of_connection(char *line, int connection, const char *name)
{
	struct sockaddr_storage peer = {0}, local = {0};
	socklen_t peer_size = sizeof peer, local_size = sizeof local;

	getpeername(connection, (void *)&peer, &peer_size);
	getsockname(connection, (void *)&local, &local_size);
	body_line(line, name, (void *)&peer, (void *)&local);
}

struct request {
	char text[REQUEST_SIZE];
	size_t held;
	const char *body; /* in the text, as far as it was read with the head */
	unsigned long long length;
	int posts;
};

/* Reads until the empty line that ends the request's head; its path, or NULL. */
static char *path_of_request(int connection, struct request *request)
{
	char *text = request->text, *said;
	struct pollfd wait = {.fd = connection, .events = POLLIN};

	text[0] = '\0';
	while (!(request->body = strstr(text, "\r\n\r\n")) && !strstr(text, "\n\n")) {
		ssize_t got = 0;

		if (request->held < REQUEST_SIZE - 1 && poll(&wait, 1, PATIENCE) > 0)
			got = read(connection, text + request->held, REQUEST_SIZE - 1 - request->held);
		if (got <= 0)
			return NULL;
		request->held += (size_t)got;
		text[request->held] = '\0';
	}
	said = strstr(text, "Content-Length: ");
	request->posts = strncmp(text, "POST ", 5) == 0 && request->body && said && said < request->body;
	if (request->posts)
		request->length = strtoull(said + 16, NULL, 10);
	else if (strncmp(text, "GET ", 4) != 0)
		return NULL;
	return strtok(text + (request->posts ? 5 : 4), " \r\n");
}

static void head(int connection, const char *status, unsigned long long length)
{
	char text[256];

	snprintf(text, sizeof text, "HTTP/1.0 %s\r\nContent-Type: text/plain\r\nContent-Length: %llu\r\n\r\n", status, length);
	write_all(connection, text, strlen(text));
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
		send_bytes(connection, count, NULL);
		return;
	}
	if (strncmp(path, "/hold/", 6) == 0)
		usleep((useconds_t)(strtod(path + 6, NULL) * 1e6));
	else if (strcmp(path, "/") != 0)
		line = NULL;
	answer_text(connection, line ? "200 OK" : "404 Not Found", line ? line : "no such path\n");
}

/* What came before the end, or before nothing came for too long, is told: the client compares. */
static void answer_digest(int connection, const struct request *request, const char *line)
{
	static char data[1 << 16];
	const char *body = request->body + 4;
	struct pollfd wait = {.fd = connection, .events = POLLIN};
	uint64_t digest = DIGEST_START;
	unsigned long long held = (unsigned long long)(request->text + request->held - body);
	char text[LINE_SIZE + 64];
	ssize_t got;

	digest_add(&digest, body, (size_t)held);
	while (held < request->length && poll(&wait, 1, PATIENCE) > 0 && (got = read(connection, data, sizeof data)) > 0) {
		digest_add(&digest, data, (size_t)got);
		held += (unsigned long long)got;
	}
	snprintf(text, sizeof text, "%s%llu %016llx\n", line, held, (unsigned long long)digest);
	answer_text(connection, "200 OK", text);
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
	static struct request request;
	char line[LINE_SIZE];
	char *path;

	line_of_connection(line, connection, name);
	path = path_of_request(connection, &request);
	if (path && request.posts)
		answer_digest(connection, &request, line);
	else if (path)
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

/* The connections that are open, in the order in which they came: a ring. */
static struct {
	int connection;
	long long until; /* milliseconds */
} held[HELD_MOST];
static size_t held_first, held_count;

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (long long)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* Says the line at once; it is closed after `patience`, or when there are too many. */
static void hold(int connection, const char *name, long long patience)
{
	char line[LINE_SIZE];
	size_t last = (held_first + held_count) % HELD_MOST;

	line_of_connection(line, connection, name);
	write_all(connection, line, strlen(line));
	if (patience == 0 || held_count == HELD_MOST) {
		close(connection);
		return;
	}
	held[last].connection = connection;
	held[last].until = now() + patience;
	held_count++;
}

/* Closes what is due; milliseconds until the next one is, -1 for none. */
static int close_due(void)
{
	while (held_count > 0 && held[held_first].until <= now()) {
		close(held[held_first].connection);
		held_first = (held_first + 1) % HELD_MOST;
		held_count--;
	}
	return held_count > 0 ? (int)(held[held_first].until - now() + 1) : -1;
}

/* One process for all: its client closes last, and sends nothing. */
int serve_close_main(int count, char **words)
{
	struct rlimit files = {HELD_MOST + 64, HELD_MOST + 64};
	struct pollfd wait = {.events = POLLIN};
	long long patience;

	if (count != 4)
		return usage();
	patience = (long long)(strtod(words[3], NULL) * 1000);
	setrlimit(RLIMIT_NOFILE, &files);
	signal(SIGPIPE, SIG_IGN);
	wait.fd = listen_at(AF_INET, SOCK_STREAM, words[2]);
	for (;;) {
		int connection;

		if (poll(&wait, 1, close_due()) <= 0)
			continue;
		connection = accept(wait.fd, NULL, NULL);
		if (connection >= 0)
			hold(connection, words[1], patience);
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
