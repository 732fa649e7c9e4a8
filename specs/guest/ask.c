/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Asks servers, each time over a new socket, and says on one line a time what came of it:
 *
 *   ok BODY-LINE | OWN-ADDRESS OWN-PORT MILLISECONDS
 *   error REASON MILLISECONDS
 *
 * BODY-LINE is the answer's first line, REASON may have blanks: "Connection refused", "timeout",
 * "closed", "status 503", "closed after 10 of 20 bytes". With --body the body of the one answer goes to standard output instead.
 * One after the other, or with --together all at once, in the order in which they end. The exit
 * status is 0 only when all went well, 1 on any error.
 *
 * `connect` sends nothing: the answer is what the server says before it closes.
 */
#define _GNU_SOURCE /* strcasestr */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define KEPT 1024 /* bytes of an answer: its head and the first line of its body */

static struct {
	struct sockaddr_storage to;
	socklen_t to_size;
	char text[2048]; /* what is sent */
	long count;
	double timeout; /* seconds for each */
	int datagram, silent, body, together;
} wanted = {.timeout = 5};

struct asking {
	int socket, sent;
	double begun;
	unsigned long long received;
	size_t held;
	char answer[KEPT + 1];
	char own[ADDRESS_SIZE];
	unsigned own_port;
};

static int any_failed;

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void done(struct asking *asking)
{
	close(asking->socket);
	asking->socket = -1;
}

static void failed(struct asking *asking, const char *reason)
{
	any_failed = 1;
	if (wanted.body)
		fprintf(stderr, "error %s\n", reason);
	else
		printf("error %s %.1f\n", reason, (now() - asking->begun) * 1000);
	done(asking);
}

/* The first line, with nothing in it that is no text. */
static void printable_line(char *text)
{
	for (; *text && *text != '\n'; text++)
		if (*text < ' ' || *text > '~')
			*text = '?';
	*text = '\0';
}

/* How far the answer's head reaches, its empty line included; 0 as long as it goes on. */
static size_t head_length(const struct asking *asking)
{
	const char *end = wanted.datagram || wanted.silent ? NULL : strstr(asking->answer, "\r\n\r\n");

	return end ? (size_t)(end + 4 - asking->answer) : 0;
}

/* Whether it is an answer of HTTP, whole, with status 200, or of any kind to nothing; else why not. */
static int is_good(const struct asking *asking, size_t head, char *reason, size_t size)
{
	const char *said = strcasestr(asking->answer, "\r\nContent-Length: ");
	unsigned long long length = said ? strtoull(said + 18, NULL, 10) : asking->received - head;
	int status = 0;

	if (wanted.silent && asking->held)
		return 1;
	if (!head || sscanf(asking->answer, "HTTP/%*s %d", &status) != 1)
		snprintf(reason, size, "closed");
	else if (status != 200)
		snprintf(reason, size, "status %d", status);
	else if (asking->received - head != length)
		snprintf(reason, size, "closed after %llu of %llu bytes", asking->received - head, length);
	else
		return 1;
	return 0;
}

/* The other end is through: judges what it said. */
static void answered(struct asking *asking)
{
	size_t head = head_length(asking);
	char reason[96];

	if (!wanted.datagram && !is_good(asking, head, reason, sizeof reason)) {
		failed(asking, reason);
		return;
	}
	printable_line(asking->answer + head);
	if (!wanted.body)
		printf("ok %s | %s %u %.1f\n", asking->answer + head, asking->own, asking->own_port,
		       (now() - asking->begun) * 1000);
	done(asking);
}

static void begin(struct asking *asking)
{
	struct sockaddr_storage own = {0};
	socklen_t size = sizeof own;

	*asking = (struct asking){.begun = now()};
	asking->socket = socket(wanted.to.ss_family, wanted.datagram ? SOCK_DGRAM : SOCK_STREAM, 0);
	if (asking->socket < 0) {
		failed(asking, strerror(errno));
		return;
	}
	fcntl(asking->socket, F_SETFL, O_NONBLOCK);
	if (connect(asking->socket, (void *)&wanted.to, wanted.to_size) && errno != EINPROGRESS) {
		failed(asking, strerror(errno));
		return;
	}
	getsockname(asking->socket, (void *)&own, &size);
	address_text((void *)&own, asking->own, &asking->own_port);
}

static void send_text(struct asking *asking)
{
	int error = 0;
	socklen_t size = sizeof error;

	getsockopt(asking->socket, SOL_SOCKET, SO_ERROR, &error, &size);
	if (!error && write(asking->socket, wanted.text, strlen(wanted.text)) < 0)
		error = errno;
	if (error)
		failed(asking, strerror(error));
	asking->sent = 1;
}

static void pass_body(const struct asking *asking, const void *data, size_t length)
{
	if (wanted.body && strncmp(asking->answer + 8, " 200 ", 5) == 0)
		write_all(STDOUT_FILENO, data, length);
}

/* Until the head is whole no more is read than is kept, so that all of the body is passed on. */
static ssize_t read_answer(struct asking *asking)
{
	static char data[1 << 16];
	size_t head = head_length(asking), held = asking->held;
	ssize_t got = read(asking->socket, data, head ? sizeof data : KEPT - held);
	size_t room = KEPT - held, length = got > 0 ? (size_t)got : 0;

	memcpy(asking->answer + held, data, length < room ? length : room);
	asking->held += length < room ? length : room;
	asking->answer[asking->held] = '\0';
	asking->received += length;
	if (head)
		pass_body(asking, data, length);
	else if ((head = head_length(asking)))
		pass_body(asking, asking->answer + head, asking->held - head);
	return got;
}

static void receive(struct asking *asking)
{
	ssize_t got = read_answer(asking);

	if (got < 0)
		failed(asking, strerror(errno));
	else if (got == 0 || wanted.datagram || (asking->held == KEPT && !head_length(asking)))
		answered(asking);
}

/* Waits once for all that are still open; how many they are. */
static long go_on(struct asking *all, struct pollfd *waits, long count)
{
	long row, open_ones = 0;
	double first = now() + 3600;

	for (row = 0; row < count; row++) {
		waits[row] = (struct pollfd){.fd = all[row].socket, .events = all[row].sent ? POLLIN : POLLOUT};
		if (all[row].socket >= 0 && ++open_ones && all[row].begun < first)
			first = all[row].begun;
	}
	if (open_ones == 0)
		return 0;
	first = (first + wanted.timeout - now()) * 1000 + 1;
	poll(waits, (nfds_t)count, first > 0 ? (int)first : 0);
	for (row = 0; row < count; row++) {
		if (all[row].socket >= 0 && waits[row].revents)
			(all[row].sent ? receive : send_text)(&all[row]);
		if (all[row].socket >= 0 && now() - all[row].begun > wanted.timeout)
			failed(&all[row], "timeout");
	}
	return open_ones;
}

static int ask_all(long at_once)
{
	struct asking *all = calloc((size_t)at_once, sizeof *all);
	struct pollfd *waits = calloc((size_t)at_once, sizeof *waits);
	long begun, row;

	if (!all || !waits) {
		fprintf(stderr, "no memory for %ld at once\n", at_once);
		return 1;
	}
	for (begun = 0; begun < wanted.count; begun += at_once) {
		for (row = 0; row < at_once; row++)
			begin(&all[row]);
		while (go_on(all, waits, at_once) > 0)
			continue;
		if (!wanted.silent) /* of connections there are thousands */
			fflush(stdout);
	}
	return any_failed;
}

static int options_wanted(int at, int count, char **words)
{
	for (; at < count; at++) {
		if (strcmp(words[at], "--timeout") == 0 && at + 1 < count)
			wanted.timeout = strtod(words[++at], NULL);
		else if (strcmp(words[at], "--body") == 0)
			wanted.body = 1;
		else if (strcmp(words[at], "--together") == 0)
			wanted.together = 1;
		else
			return 0;
	}
	return wanted.timeout > 0 && (!wanted.body || (wanted.count == 1 && !wanted.datagram));
}

int ask_main(int count, char **words)
{
	struct rlimit files;
	int options;

	wanted.datagram = strcmp(words[0], "ask-udp") == 0;
	wanted.silent = strcmp(words[0], "connect") == 0;
	options = wanted.silent ? 4 : 5;
	if (count < options || !(wanted.to_size = address_of(words[1], words[2], &wanted.to)))
		return usage();
	wanted.count = strtol(words[options - 1], NULL, 10);
	if (wanted.count < 1 || !options_wanted(options, count, words))
		return usage();
	if (!wanted.silent)
		snprintf(wanted.text, sizeof wanted.text, wanted.datagram ? "%s" : "GET %s HTTP/1.0\r\n\r\n", words[3]);
	files = (struct rlimit){(rlim_t)wanted.count + 64, (rlim_t)wanted.count + 64};
	if (wanted.together)
		setrlimit(RLIMIT_NOFILE, &files);
	return ask_all(wanted.together ? wanted.count : 1);
}
