/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The path MTU to an address as the kernel knows it: a datagram's socket has it once it is connected. */
#include "guest.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int path_mtu_main(int count, char **words)
{
	struct sockaddr_storage to = {0};
	socklen_t size = count == 2 ? address_of(words[1], "9", &to) : 0;
	int mtu, asked = size ? socket(to.ss_family, SOCK_DGRAM, 0) : -1;
	socklen_t mtu_size = sizeof mtu;

	if (size != sizeof(struct sockaddr_in))
		return usage();
	if (connect(asked, (void *)&to, size) || getsockopt(asked, IPPROTO_IP, IP_MTU, &mtu, &mtu_size)) {
		fprintf(stderr, "%s: %s\n", words[1], strerror(errno));
		return 1;
	}
	printf("%d\n", mtu);
	return 0;
}
