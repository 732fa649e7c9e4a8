/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Runs a command at a terminal of its own, such as a shell for a person: standard input is what is
 * typed, standard output what is shown. Ends as the command does, with its exit status.
 */
#define _GNU_SOURCE /* posix_openpt, ptsname */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static void set_size(int terminal, const char *rows, const char *columns)
{
	struct winsize size = {.ws_row = (unsigned short)atoi(rows), .ws_col = (unsigned short)atoi(columns)};

	ioctl(terminal, TIOCSWINSZ, &size); /* whoever runs in the foreground gets SIGWINCH */
}

static int open_terminal(const char *rows, const char *columns)
{
	int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (terminal < 0 || grantpt(terminal) || unlockpt(terminal))
		return -1;
	set_size(terminal, rows, columns);
	return terminal;
}

static void become(const char *path, char **words)
{
	int side, descriptor;

	setsid();
	side = open(path, O_RDWR); /* the first one a session opens is the one it is controlled by */
	for (descriptor = 0; side >= 0 && descriptor < 3; descriptor++)
		dup2(side, descriptor);
	if (side > 2)
		close(side);
	execvp(words[0], words);
	fprintf(stderr, "%s: %s\n", words[0], strerror(errno));
	_exit(127);
}

/* Passes on what there is; 0 at the end. */
static int pass_on(int from, int to)
{
	static char data[4096];
	ssize_t got = read(from, data, sizeof data);

	return got > 0 && write_all(to, data, (size_t)got) == 0;
}

static void relay(int terminal)
{
	struct pollfd waits[2] = {{.fd = terminal, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};

	for (;;) {
		if (poll(waits, 2, -1) < 0)
			continue;
		if (waits[1].revents && !pass_on(STDIN_FILENO, terminal)) {
			write_all(terminal, "\004", 1); /* as if it were typed: whoever reads the terminal sees the end */
			waits[1].fd = -1;
		}
		if (waits[0].revents && !pass_on(terminal, STDOUT_FILENO))
			return; /* EIO: nobody has the other side open */
	}
}

int terminal_main(int count, char **words)
{
	int terminal, status = 0;
	pid_t pid;

	if (count < 4)
		return usage();
	terminal = open_terminal(words[1], words[2]);
	pid = terminal < 0 ? -1 : fork();
	if (pid < 0) {
		fprintf(stderr, "no terminal: %s\n", strerror(errno));
		return 1;
	}
	if (pid == 0)
		become(ptsname(terminal), words + 3);
	relay(terminal);
	waitpid(pid, &status, 0);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* Of all terminals: a guest has one, its person's. */
int resize_main(int count, char **words)
{
	glob_t found;
	size_t row;
	int terminal;

	if (count != 3)
		return usage();
	if (glob("/dev/pts/[0-9]*", 0, NULL, &found))
		return 1; /* it was closed meanwhile */
	for (row = 0; row < found.gl_pathc; row++) {
		terminal = open(found.gl_pathv[row], O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (terminal >= 0)
			set_size(terminal, words[1], words[2]);
	}
	return 0;
}
