// SPDX-License-Identifier: GPL-2.0-or-later
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cidr.h"

/* Clear the bits behind the prefix; true when one of them was set. */
static bool clear_host(__u8 *address, size_t size, unsigned int length)
{
	bool was_set = false;
	size_t i;

	for (i = 0; i < size; i++) {
		unsigned int kept = length > i * 8 ? length - (unsigned int)i * 8 : 0;
		__u8 mask = kept >= 8 ? 0xff : (__u8)(0xff00 >> kept);

		was_set |= (address[i] & ~mask) != 0;
		address[i] &= mask;
	}
	return was_set;
}

/* Read a length of digits alone: strtoul() would take a blank and a sign. */
static bool parse_length(const char *text, unsigned int most, unsigned int *length)
{
	if (!*text || strlen(text) > 3 || strspn(text, "0123456789") != strlen(text))
		return false;
	*length = (unsigned int)strtoul(text, NULL, 10);
	return *length <= most;
}

bool cidr_parse(const char *text, struct toa_prefix *prefix, char wrong[CIDR_WRONG])
{
	const char *slash = strchr(text, '/');
	char address[CIDR_TEXT], right[CIDR_TEXT];
	unsigned int most, length;
	size_t size = slash ? (size_t)(slash - text) : strlen(text);

	memset(prefix, 0, sizeof(*prefix));
	if (size >= sizeof(address))
		size = 0; /* no address is that long: refused below */
	memcpy(address, text, size);
	address[size] = 0;
	if (inet_pton(AF_INET, address, prefix->address) == 1) {
		prefix->family = htonl(4);
		most = 32;
	} else if (inet_pton(AF_INET6, address, prefix->address) == 1) {
		prefix->family = htonl(6);
		most = 128;
	} else {
		snprintf(
			wrong, CIDR_WRONG,
			"'%.40s' is not an address; expected one such as 192.0.2.1 or 192.0.2.0/24",
			text);
		return false;
	}
	length = most;
	if (slash && !parse_length(slash + 1, most, &length)) {
		snprintf(wrong, CIDR_WRONG,
			 "'%.40s' has no length of a prefix; expected 0 to %u behind '/'", text,
			 most);
		return false;
	}
	prefix->length = TOA_FAMILY_BITS + length;
	if (most == 128 && IN6_IS_ADDR_V4MAPPED((struct in6_addr *)prefix->address)) {
		snprintf(wrong, CIDR_WRONG,
			 "'%.40s' is an IPv4 address in IPv6's notation; expected 192.0.2.1 for it",
			 text);
		return false;
	}
	if (clear_host(prefix->address, most / 8, length)) {
		cidr_format(prefix, right);
		snprintf(wrong, CIDR_WRONG, "'%.40s' has bits set behind the prefix; expected %s",
			 text, right);
		return false;
	}
	return true;
}

void cidr_format(const struct toa_prefix *prefix, char text[CIDR_TEXT])
{
	char address[INET6_ADDRSTRLEN] = "?";

	inet_ntop(prefix->family == htonl(4) ? AF_INET : AF_INET6, prefix->address, address,
		  sizeof(address));
	snprintf(text, CIDR_TEXT, "%s/%u", address, prefix->length - TOA_FAMILY_BITS);
}
