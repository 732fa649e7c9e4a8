/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the parts of the guest's one program share. guest.c says what the program is. */
#ifndef FNAT_GUEST_H
#define FNAT_GUEST_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#define ADDRESS_SIZE 64 /* characters of an address as text, its end included */
#define LINE_SIZE 512	/* characters of a line that servers answer, its end included */

/* init.c: what process 1 does before and after it serves the channel */
int init_main(void);
int kernel_option(const char *name, char *value, size_t size); /* of the kernel's command line; 0 when there */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* channel.c: the way to the host, and frames on it */
enum frame_kind {
	/* from the host */
	FRAME_RUN = 'R',   /* words of a command, each ended by NUL */
	FRAME_START = 'S', /* the same; goes on, outputs to /run/NUMBER.log */
	FRAME_INPUT = 'I', /* standard input of a RUN; an empty one ends it */
	FRAME_STOP = 'K',  /* one byte: the signal for the command's process group */
	FRAME_OFF = 'Q',   /* power off */
	/* from the guest */
	FRAME_HELLO = 'H',   /* the first one: "fnat-guest 1 RELEASE" */
	FRAME_OUT = 'o',     /* standard output of a RUN */
	FRAME_ERR = 'e',     /* standard error of a RUN */
	FRAME_TAKEN = 't',   /* 4 bytes: so much of the input was taken or is wanted no more */
	FRAME_STARTED = 's', /* a RUN or START runs: its program was found */
	FRAME_REFUSED = 'f', /* it does not, and why */
	FRAME_ENDED = 'x',   /* 4 bytes: exit status, 128 + number for a signal */
};

#define FRAME_MOST 65536u /* bytes of content */

struct frame {
	unsigned number;
	unsigned length;
	enum frame_kind kind;
	const unsigned char *content;
};

int channel_open(void); /* 0, or -1 after it was said why */
int channel_descriptor(void);
void channel_send(unsigned number, enum frame_kind kind, const void *content, size_t length);
void channel_receive(void (*handle)(const struct frame *)); /* what there is; returns */

/* agent.c: runs commands for the host; does not return */
void agent_main(void);

/* serve.c and ask.c: the sub-commands; `words` are argv from the sub-command's name on */
int serve_main(int count, char **words);
int serve_udp_main(int count, char **words);
int serve_close_main(int count, char **words);
int ask_main(int count, char **words);

/* bytes.c: the bytes that are known beforehand, and a digest, which begins with DIGEST_START */
#define DIGEST_START 14695981039346656037u
int bytes_main(int count, char **words);
int post_main(int count, char **words);
int send_bytes(int to, unsigned long long count, uint64_t *digest); /* the digest is added to unless it is NULL */
void digest_add(uint64_t *digest, const void *data, size_t length);

/* offload.c, path_mtu.c: sub-commands too */
int offload_main(int count, char **words);
int path_mtu_main(int count, char **words);

/* terminal.c: sub-commands too */
int terminal_main(int count, char **words);
int resize_main(int count, char **words);

/* guest.c */
int usage(void);
int write_all(int descriptor, const void *data, size_t length);
void address_text(const struct sockaddr *address, char *text, unsigned *port);
socklen_t address_of(const char *address, const char *port, struct sockaddr_storage *found); /* 0 for none */

#endif
