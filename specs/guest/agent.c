/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent: runs commands for the host, several at once, in one loop that never waits for any of
 * them. A command that ended has ended although something it left behind holds its outputs open.
 */
#define _GNU_SOURCE /* ppoll, pipe2 */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS_MOST 1024
#define JOBS_MOST 256
#define OUTPUT_AT_ONCE 32768
#define PIPE_HOLDS 65536 /* pipe(7) */

struct job {
	struct job *next;
	unsigned number;
	pid_t pid;
	int in, out, err; /* our ends; -1 when closed */
	unsigned char *input;
	size_t input_length;
	int input_ended, stopped, ended, status;
};

static struct job *jobs;
static sigset_t waiting_mask; /* while we wait, and for children: SIGCHLD comes through */

static void on_child(int number)
{
	(void)number; /* only to end the waiting */
}

static void close_end(int *descriptor)
{
	if (*descriptor >= 0)
		close(*descriptor);
	*descriptor = -1;
}

static struct job *job_of(unsigned number)
{
	struct job *job = jobs;

	while (job && job->number != number)
		job = job->next;
	return job;
}

/* --- Beginning ------------------------------------------------------------------------------------ */

static int split(const struct frame *frame, char **words)
{
	char *text = (char *)frame->content, *end = text + frame->length;
	int count = 0;

	while (text < end && end[-1] == '\0' && count < WORDS_MOST - 1) {
		words[count++] = text;
		text += strlen(text) + 1;
	}
	words[count] = NULL;
	return text == end ? count : 0;
}

static void become(char **words, const int ends[3], int told)
{
	int descriptor, error;

	setsid();
	for (descriptor = 0; descriptor < 3; descriptor++)
		dup2(ends[descriptor], descriptor);
	signal(SIGCHLD, SIG_DFL);
	signal(SIGPIPE, SIG_DFL);
	sigprocmask(SIG_SETMASK, &waiting_mask, NULL);
	execvp(words[0], words);
	error = errno;
	write_all(told, &error, sizeof error);
	_exit(127);
}

/* Begins the program; 0 or the error. `ends` are its standard descriptors. */
static int begin(struct job *job, char **words, const int ends[3])
{
	int told[2], error = 0;

	if (pipe2(told, O_CLOEXEC))
		return errno;
	job->pid = fork();
	if (job->pid == 0)
		become(words, ends, told[1]);
	if (job->pid < 0)
		error = errno;
	close(told[1]);
	if (job->pid > 0 && read(told[0], &error, sizeof error) > 0)
		waitpid(job->pid, NULL, 0); /* it ended without having become anything */
	close(told[0]);
	return error;
}

static int begin_with_pipes(struct job *job, char **words)
{
	int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1};
	int error = pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC) ? errno : 0;

	if (!error)
		error = begin(job, words, (int[]){in[0], out[1], err[1]});
	close_end(&in[0]);
	close_end(&out[1]);
	close_end(&err[1]);
	job->in = in[1], job->out = out[0], job->err = err[0];
	fcntl(job->in, F_SETFL, O_NONBLOCK);
	fcntl(job->out, F_SETFL, O_NONBLOCK);
	fcntl(job->err, F_SETFL, O_NONBLOCK);
	return error;
}

static int begin_with_log(struct job *job, char **words)
{
	char path[64];
	int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC), log, error;

	snprintf(path, sizeof path, "/run/%u.log", job->number);
	log = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
	error = nothing < 0 || log < 0 ? errno : begin(job, words, (int[]){nothing, log, log});
	close_end(&nothing);
	close_end(&log);
	return error;
}

static void forget(struct job *job)
{
	struct job **link = &jobs;

	while (*link != job)
		link = &(*link)->next;
	*link = job->next;
	close_end(&job->in);
	close_end(&job->out);
	close_end(&job->err);
	free(job->input);
	free(job);
}

static void handle_command(const struct frame *frame)
{
	static char *words[WORDS_MOST];
	struct job *job = calloc(1, sizeof *job);
	char why[256];
	int error;

	if (!job)
		return;
	*job = (struct job){.next = jobs, .number = frame->number, .in = -1, .out = -1, .err = -1};
	jobs = job;
	if (split(frame, words) == 0)
		error = EINVAL;
	else
		error = frame->kind == FRAME_RUN ? begin_with_pipes(job, words) : begin_with_log(job, words);
	if (!error) {
		channel_send(job->number, FRAME_STARTED, "", 0);
		return;
	}
	snprintf(why, sizeof why, "%s: %s", words[0] ? words[0] : "?", strerror(error));
	channel_send(job->number, FRAME_REFUSED, why, strlen(why));
	forget(job);
}

/* --- Input and outputs ---------------------------------------------------------------------------- */

static void tell_taken(const struct job *job, size_t length)
{
	uint32_t taken = (uint32_t)length;

	if (length)
		channel_send(job->number, FRAME_TAKEN, &taken, sizeof taken);
}

/* Gives the command what it takes of its input now. One that closed its end gets no more, and may not want it. */
static void feed(struct job *job)
{
	ssize_t done = job->input_length ? write(job->in, job->input, job->input_length) : 0;

	if (done < 0 && errno != EAGAIN && errno != EINTR) {
		close_end(&job->in);
		done = (ssize_t)job->input_length;
	}
	if (done > 0) {
		job->input_length -= (size_t)done;
		memmove(job->input, job->input + done, job->input_length);
		tell_taken(job, (size_t)done);
	}
	if (job->input_ended && job->input_length == 0)
		close_end(&job->in);
}

static void handle_input(struct job *job, const struct frame *frame)
{
	unsigned char *larger;

	if (frame->length == 0)
		job->input_ended = 1;
	if (job->in < 0) {
		tell_taken(job, frame->length);
		return;
	}
	larger = realloc(job->input, job->input_length + frame->length + 1);
	if (!larger)
		return;
	job->input = larger;
	memcpy(job->input + job->input_length, frame->content, frame->length);
	job->input_length += frame->length;
	feed(job);
}

/* Passes on what one output has now; whether there was any. */
static int pass_on(const struct job *job, int *descriptor, enum frame_kind kind)
{
	static char data[OUTPUT_AT_ONCE];
	ssize_t got = *descriptor < 0 ? 0 : read(*descriptor, data, sizeof data);

	if (got > 0)
		channel_send(job->number, kind, data, (size_t)got);
	else if (got == 0 || (errno != EAGAIN && errno != EINTR))
		close_end(descriptor);
	return got > 0;
}

/* --- Ending --------------------------------------------------------------------------------------- */

static void reap(void)
{
	struct job *job;
	pid_t pid;
	int status;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (job = jobs; job; job = job->next)
			if (job->pid == pid && !job->ended) {
				job->ended = 1;
				job->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
			}
}

static void finish(struct job *job)
{
	int32_t status = job->status;
	int looks = PIPE_HOLDS / OUTPUT_AT_ONCE; /* no more: a daemon that it left may write for ever */

	for (; looks > 0; looks--) {
		pass_on(job, &job->out, FRAME_OUT);
		pass_on(job, &job->err, FRAME_ERR);
	}
	if (job->stopped)
		kill(-job->pid, SIGKILL); /* what it left of its group; what was not stopped may leave a daemon */
	channel_send(job->number, FRAME_ENDED, &status, sizeof status);
	forget(job);
}

static void power_off(void)
{
	sync();
	reboot(RB_POWER_OFF);
	reboot(RB_AUTOBOOT); /* where there is no way to power off; the host does not let it boot again */
}

static void handle(const struct frame *frame)
{
	struct job *job = job_of(frame->number);

	if (frame->kind == FRAME_OFF)
		power_off();
	else if ((frame->kind == FRAME_RUN || frame->kind == FRAME_START) && !job)
		handle_command(frame);
	else if (frame->kind == FRAME_INPUT && job)
		handle_input(job, frame);
	else if (frame->kind == FRAME_STOP && job && frame->length == 1) {
		job->stopped = 1;
		kill(-job->pid, frame->content[0]);
	}
}

/* --- The loop ------------------------------------------------------------------------------------- */

/* What to wait for: a descriptor that is closed is -1, which poll leaves alone. */
static nfds_t wanted(struct pollfd *waits)
{
	struct job *job;
	nfds_t count = 0;

	waits[count++] = (struct pollfd){.fd = channel_descriptor(), .events = POLLIN};
	for (job = jobs; job && count + 3 <= 1 + 3 * JOBS_MOST; job = job->next) {
		/* An end that nobody reads would be told at every look. */
		waits[count++] = (struct pollfd){.fd = job->input_length ? job->in : -1, .events = POLLOUT};
		waits[count++] = (struct pollfd){.fd = job->out, .events = POLLIN};
		waits[count++] = (struct pollfd){.fd = job->err, .events = POLLIN};
	}
	return count;
}

static void serve_jobs(void)
{
	struct job *job, *next;

	for (job = jobs; job; job = next) {
		next = job->next;
		if (job->in >= 0)
			feed(job);
		pass_on(job, &job->out, FRAME_OUT);
		pass_on(job, &job->err, FRAME_ERR);
		if (job->ended)
			finish(job);
	}
}

static void greet(void)
{
	struct utsname about;
	char text[128];

	uname(&about);
	snprintf(text, sizeof text, "fnat-guest 1 %s", about.release);
	channel_send(0, FRAME_HELLO, text, strlen(text));
}

void agent_main(void)
{
	static struct pollfd waits[1 + 3 * JOBS_MOST];
	sigset_t children;

	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	sigprocmask(SIG_BLOCK, &children, &waiting_mask);
	sigaction(SIGCHLD, &(struct sigaction){.sa_handler = on_child}, NULL);
	signal(SIGPIPE, SIG_IGN);
	say("guest ready");
	greet();
	for (;;) {
		nfds_t count = wanted(waits);

		if (ppoll(waits, count, NULL, &waiting_mask) > 0 && waits[0].revents)
			channel_receive(handle);
		reap();
		serve_jobs();
	}
}
