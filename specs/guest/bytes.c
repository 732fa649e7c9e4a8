/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bytes that are known beforehand, their digest, and the client that sends them:
 *
 *   ok BODY-LINE | OWN-ADDRESS OWN-PORT MILLISECONDS
 *   received LENGTH DIGEST
 *   sent LENGTH DIGEST
 *
 * BODY-LINE and `received` are what the server answers, which digests what it gets. In place of all
 * three, and with exit status 1, `error REASON MILLISECONDS`. The timeout is for a time in which
 * nothing goes on, not for the whole.
 */
#include "guest.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* FNV-1a of 64 bits (Fowler, Noll, Vo): by bytes, so that it is the same however they were cut. */
void digest_add(uint64_t *digest, const void *data, size_t length)
{
	const unsigned char *byte = data;
	uint64_t state = *digest;

	while (length-- > 0)
		state = (state ^ *byte++) * 1099511628211u;
	*digest = state;
}

/* xorshift64 (Marsaglia 2003), from a fixed start; each number least significant byte first. */
int send_bytes(int to, unsigned long long count, uint64_t *digest)
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
			return -1;
		if (digest)
			digest_add(digest, block, length);
		count -= length;
	}
	return 0;
}

int bytes_main(int count, char **words)
{
	if (count != 2)
		return usage();
	return send_bytes(STDOUT_FILENO, strtoull(words[1], NULL, 10), NULL) ? 1 : 0;
}

static double milliseconds(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1000 + (double)time.tv_nsec / 1e6;
}

/* Connected, or -1. */
static int connected(const struct sockaddr_storage *to, socklen_t size, double timeout)
{
	int connection = socket(to->ss_family, SOCK_STREAM, 0);
	struct timeval wait = {.tv_sec = (time_t)timeout, .tv_usec = (suseconds_t)((timeout - (long)timeout) * 1e6)};

	setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait); /* connect waits as long, too */
	setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
	return connect(connection, (const void *)to, size) ? -1 : connection;
}

/* The whole answer as text; -1 when it does not come. */
static int receive_answer(int connection, char *answer, size_t size)
{
	size_t held = 0;
	ssize_t got;

	while ((got = read(connection, answer + held, size - 1 - held)) > 0)
		held += (size_t)got;
	answer[held] = '\0';
	return got < 0 ? -1 : 0;
}

static int post(int connection, unsigned long long length, uint64_t *digest, char *answer, size_t size)
{
	char head[128];

	snprintf(head, sizeof head, "POST /digest HTTP/1.0\r\nContent-Length: %llu\r\n\r\n", length);
	if (write_all(connection, head, strlen(head)) || send_bytes(connection, length, digest))
		return -1;
	return receive_answer(connection, answer, size);
}

static int failed(const char *reason, double begun)
{
	printf("error %s %.1f\n", reason, milliseconds() - begun);
	return 1;
}

/* The answer's body has two lines. */
static int said(int connection, const char *answer, double begun)
{
	struct sockaddr_storage own = {0};
	socklen_t size = sizeof own;
	char address[ADDRESS_SIZE], line[LINE_SIZE], received[LINE_SIZE];
	const char *body = strstr(answer, "\r\n\r\n");
	unsigned port;

	if (strncmp(answer + 8, " 200 ", 5) != 0 || !body || sscanf(body, " %511[ -~]\n%511[ -~]", line, received) != 2)
		return failed("no answer that is known", begun);
	getsockname(connection, (void *)&own, &size);
	address_text((void *)&own, address, &port);
	printf("ok %s | %s %u %.1f\nreceived %s\n", line, address, port, milliseconds() - begun, received);
	return 0;
}

int post_main(int count, char **words)
{
	struct sockaddr_storage to = {0};
	double timeout = 10, begun = milliseconds();
	uint64_t digest = DIGEST_START;
	char answer[2048] = "";
	unsigned long long length;
	socklen_t size;
	int connection;

	if (count == 6 && strcmp(words[4], "--timeout") == 0)
		timeout = strtod(words[5], NULL);
	else if (count != 4)
		return usage();
	size = address_of(words[1], words[2], &to);
	length = strtoull(words[3], NULL, 10);
	if (!size || timeout <= 0)
		return usage();
	connection = connected(&to, size, timeout);
	if (connection < 0 || post(connection, length, &digest, answer, sizeof answer))
		return failed(errno == EAGAIN || errno == EINPROGRESS ? "timeout" : strerror(errno), begun);
	if (said(connection, answer, begun))
		return 1;
	printf("sent %llu %016llx\n", length, (unsigned long long)digest);
	return 0;
}
