/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a card, or the kernel in its place, does for whole runs of packets: shown, and turned on or off
 * as `ethtool -K` does. What a card cannot do stays off; the line that is printed has what came of it.
 */
#include "guest.h"

#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define SIOCETHTOOL 0x8946 /* linux/sockios.h */

/* linux/ethtool.h. In this order: segmentation needs what comes before it. */
static const struct {
	const char *name;
	uint32_t get, set;
} offloads[] = {
	{"rx-checksum", 0x14, 0x15}, {"tx-checksum", 0x16, 0x17}, {"sg", 0x18, 0x19},
	{"tso", 0x1e, 0x1f},	     {"gso", 0x23, 0x24},	  {"gro", 0x2b, 0x2c},
};

struct ethtool_value {
	uint32_t command, data;
};

/* The value after the command; -1 where the card has none such. */
static int value_after(int by, const char *device, uint32_t command, uint32_t data)
{
	struct ethtool_value value = {command, data};
	struct ifreq request = {.ifr_data = (void *)&value};

	snprintf(request.ifr_name, sizeof request.ifr_name, "%s", device);
	return ioctl(by, SIOCETHTOOL, &request) ? -1 : (int)value.data;
}

int offload_main(int count, char **words)
{
	int by = socket(AF_INET, SOCK_DGRAM, 0);
	size_t row;

	if (count < 2 || count > 3 || (count == 3 && strcmp(words[2], "on") != 0 && strcmp(words[2], "off") != 0))
		return usage();
	if (if_nametoindex(words[1]) == 0) {
		fprintf(stderr, "%s: %s\n", words[1], strerror(errno));
		return 1;
	}
	for (row = 0; count == 3 && row < sizeof offloads / sizeof *offloads; row++)
		value_after(by, words[1], offloads[row].set, strcmp(words[2], "on") == 0);
	for (row = 0; row < sizeof offloads / sizeof *offloads; row++)
		printf("%s%s %s", row ? ", " : "", offloads[row].name,
		       value_after(by, words[1], offloads[row].get, 0) > 0 ? "on" : "off");
	putchar('\n');
	return 0;
}
