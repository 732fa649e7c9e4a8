/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the BPF programs and lvs-toa share: the layout of the maps. Maps stay when either is replaced, so a
 * change here is one that a running system must be stopped for: see maps_differ() in programs.c.
 */
#ifndef LVS_TOA_H
#define LVS_TOA_H

#include <linux/types.h>

#ifndef TOA_DEFAULT
#define TOA_DEFAULT 200 /* the option number of the original patch */
#endif
#define TOA_KINDS 4 /* option numbers at once */
#define TOA_LENGTH 8 /* kind, length, port, IPv4 address */
#define TOA_LENGTH_V6 20 /* kind, length, port, IPv6 address */
#define TOA_PREFIXES 4096 /* trusted prefixes */

#define TOA_HEADER 20 /* bytes of a TCP header before its options */
#define TOA_OPTIONS 40 /* bytes of options, at most */

/* Unused places of kinds are 0, the end of the options' list, which no option can be. */
struct toa_settings {
	__u8 kinds[TOA_KINDS];
	__u8 read_syn;
	__u8 watch_all; /* 253 or 254: the kernel may take them for an option that it knows */
	__u8 unused[2];
};

/* The key of trusted prefixes. The family is a part of what is matched: ::/0 must not hold for IPv4. */
struct toa_prefix {
	__u32 length; /* in bits, those of family included */
	__u32 family; /* 4 or 6, network byte order */
	__u8 address[16];
};

#define TOA_FAMILY_BITS 32

/* A client: its address as IPv6, mapped for IPv4. All in network byte order. */
struct toa_client {
	__u32 address[4];
	__u16 port;
	__u8 known; /* 0: the option is still expected, with the first data */
	__u8 watched; /* the flag of callbacks that was set for that, to be taken back */
};

/* A saved SYN's TCP header, for as long as it is read. */
struct toa_syn {
	__u8 header[TOA_HEADER];
	__u8 options[64]; /* a power of two: the verifier bounds an index by a mask */
};

enum toa_counter {
	TOA_SEEN,
	TOA_ACCEPTED,
	TOA_IN_ACK,
	TOA_IN_SYN,
	TOA_IN_DATA,
	TOA_WITHOUT,
	TOA_UNTRUSTED,
	TOA_MALFORMED,
	TOA_IPV6,
	TOA_FAILED,
	TOA_ANSWERED,
	TOA_COUNTERS
};

#endif
