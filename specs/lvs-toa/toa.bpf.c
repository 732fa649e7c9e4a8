// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Read the TCP option TOA, which a FULLNAT director writes, and answer getpeername and accept with the
 * client's address in it.
 *
 * Three programs, attached to a cgroup. The one for socket operations reads the option where a connection
 * is established: in the segment that establishes it, else in the SYN, else in the first data. The two for
 * getpeername give back what was read. In between it is kept in the socket's own storage, which ends with it.
 *
 * No field of the kernel's own structures is used, so that the kernel need not describe them (BTF).
 */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "toa.h"

#define AF_INET 2
#define AF_INET6 10
#define SOL_TCP 6
#define TCP_SAVE_SYN 27

/* Keep the compiler from making a branch of arithmetic. */
#define opaque(value) asm volatile("" : "+r"(value))

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct toa_settings);
} toa_settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, TOA_PREFIXES);
	__type(key, struct toa_prefix);
	__type(value, __u32);
} toa_trusted SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct toa_client);
} toa_clients SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct toa_syn);
} toa_syns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TOA_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} toa_counters SEC(".maps");

struct option {
	__u32 address; /* network byte order */
	__u16 port; /* likewise */
};

enum result { ABSENT, FOUND, MALFORMED, IPV6 };

static __always_inline void count(__u32 which)
{
	__u64 *value = bpf_map_lookup_elem(&toa_counters, &which);

	if (value)
		__sync_fetch_and_add(value, 1);
}

static __always_inline const struct toa_settings *settings(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&toa_settings, &zero);
}

static __always_inline int is_toa(const struct toa_settings *set, __u8 kind)
{
	return kind == set->kinds[0] || kind == set->kinds[1] || kind == set->kinds[2] ||
	       kind == set->kinds[3];
}

/* Read the option at `at`, of which TOA_LENGTH bytes may be read. False for 0.0.0.0, which is nobody's address. */
static __always_inline int read_option(const __u8 *at, struct option *found)
{
	__u32 address;

	__builtin_memcpy(&address, at + 4, sizeof(address));
	if (!address)
		return 0;
	__builtin_memcpy(&found->port, at + 2, sizeof(found->port));
	found->address = address;
	return 1;
}

/*
 * Return the bytes that the option at `at` takes: 1 for a filler, 0 where the list ends or is broken.
 *
 * Without a branch. The verifier follows every path through a loop until it is in a state that it has seen, and
 * after two branches with results of their own it never is: the paths would be millions.
 */
static __always_inline __u64 step_of(const __u8 *at)
{
	__u64 kind = at[0], filler = kind ^ 1, length = at[1], valid = length >> 1;

	opaque(filler);
	filler = (filler - 1) >> 63; /* 1 when it was 0 */
	opaque(filler);
	valid |= 0 - filler;
	length -= (length - 1) * filler;
	opaque(length);
	return valid ? length : 0;
}

/* What an option of one of our kinds is when its length is not the usual one. */
static __always_inline enum result unusual(__u64 length)
{
	if (!length)
		return ABSENT;
	return length == TOA_LENGTH_V6 ? IPV6 : MALFORMED;
}

/*
 * Find TOA among the options of a segment's header: the first that is well formed. The director puts its own
 * before all others, so one that a client sent cannot stand before it.
 *
 * bpf_load_hdr_opt() is not used: of the kinds 253 and 254 it finds only those with a known magic number.
 */
static __always_inline enum result
find_in_segment(struct bpf_sock_ops *ctx, const struct toa_settings *set, struct option *found)
{
	const __u8 *data = ctx->skb_data, *end = ctx->skb_data_end;
	__u64 offset = 0, length = 0, step;
	int i;

	for (i = 0; i < TOA_OPTIONS && offset <= TOA_OPTIONS - 2; i++) {
		const __u8 *at = data + TOA_HEADER + offset;

		if (at + 2 > end || !at[0])
			break;
		step = step_of(at);
		if (!step)
			break;
		if (is_toa(set, at[0])) {
			if (step == TOA_LENGTH && at + TOA_LENGTH <= end && read_option(at, found))
				return FOUND;
			length = step;
		}
		offset += step;
	}
	return unusual(length);
}

/* The same in a saved SYN. It cannot be read through a packet's pointers, nor on the stack of Linux 5.10. */
static __always_inline enum result
find_in_copy(const struct toa_syn *syn, const struct toa_settings *set, struct option *found)
{
	__u64 offset = 0, length = 0, step;
	int i;

	for (i = 0; i < TOA_OPTIONS && offset <= TOA_OPTIONS - 2; i++) {
		const __u8 *at = syn->options + offset;

		if (!at[0])
			break;
		step = step_of(at);
		if (!step)
			break;
		if (is_toa(set, at[0])) {
			if (step == TOA_LENGTH && offset <= TOA_OPTIONS - TOA_LENGTH &&
			    read_option(at, found))
				return FOUND;
			length = step;
		}
		offset += step;
	}
	return unusual(length);
}

static __always_inline enum result find_in_syn(struct bpf_sock_ops *ctx, struct bpf_sock *sk,
					       const struct toa_settings *set, struct option *found)
{
	enum result result = ABSENT;
	struct toa_syn *syn;

	syn = bpf_sk_storage_get(&toa_syns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!syn)
		return ABSENT;
	/* The storage begins as zeros, and so do the options' list's end and what is behind it. */
	if (bpf_getsockopt(ctx, SOL_TCP, TCP_BPF_SYN, syn, TOA_HEADER + TOA_OPTIONS) > TOA_HEADER)
		result = find_in_copy(syn, set, found);
	bpf_sk_storage_delete(&toa_syns, sk);
	return result;
}

/* Whether the other end of a connection, the director's local address, is one to believe. */
static __always_inline int is_trusted(struct bpf_sock_ops *ctx)
{
	struct toa_prefix key = {};
	__u32 *address = (__u32 *)key.address;

	if (ctx->family == AF_INET6 &&
	    (ctx->remote_ip6[0] || ctx->remote_ip6[1] || ctx->remote_ip6[2] != bpf_htonl(0xffff))) {
		key.length = TOA_FAMILY_BITS + 128;
		key.family = bpf_htonl(6);
		address[0] = ctx->remote_ip6[0];
		address[1] = ctx->remote_ip6[1];
		address[2] = ctx->remote_ip6[2];
		address[3] = ctx->remote_ip6[3];
	} else {
		key.length = TOA_FAMILY_BITS + 32;
		key.family = bpf_htonl(4);
		address[0] = ctx->remote_ip4;
	}
	return bpf_map_lookup_elem(&toa_trusted, &key) != NULL;
}

static __always_inline void fill(struct toa_client *client, const struct option *found)
{
	client->address[2] = bpf_htonl(0xffff);
	client->address[3] = found->address;
	client->port = found->port;
	client->known = 1;
	count(TOA_ACCEPTED);
}

/* Have the program called for the segments to come, until one has data. */
static __always_inline void watch(struct bpf_sock_ops *ctx, struct bpf_sock *sk,
				  const struct toa_settings *set)
{
	__u32 flag = set->watch_all ? BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG :
				      BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG;
	struct toa_client *client;

	client = bpf_sk_storage_get(&toa_clients, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!client) {
		count(TOA_FAILED);
		return;
	}
	/* What another program of this machine set is not ours to take back. */
	if (ctx->bpf_sock_ops_cb_flags & flag)
		return;
	client->watched = flag;
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | flag);
}

static __always_inline void unwatch(struct bpf_sock_ops *ctx, struct toa_client *client)
{
	if (client->watched)
		bpf_sock_ops_cb_flags_set(ctx,
					  ctx->bpf_sock_ops_cb_flags & ~(__u32)client->watched);
	client->watched = 0;
}

static __always_inline void say(enum result result, int trusted)
{
	if (result == FOUND)
		count(TOA_SEEN);
	else if (result == MALFORMED)
		count(TOA_MALFORMED);
	else if (result == IPV6)
		count(TOA_IPV6);
	if (result != ABSENT && !trusted)
		count(TOA_UNTRUSTED);
}

static __always_inline void established(struct bpf_sock_ops *ctx)
{
	const struct toa_settings *set = settings();
	struct bpf_sock *sk = ctx->sk;
	__u32 place = TOA_IN_ACK;
	struct option found = {};
	struct toa_client *client;
	enum result result;
	int trusted;

	if (!set || !sk)
		return;
	trusted = is_trusted(ctx);
	result = find_in_segment(ctx, set, &found);
	if (result == ABSENT && set->read_syn) {
		place = TOA_IN_SYN;
		result = find_in_syn(ctx, sk, set, &found);
	}
	say(result, trusted);
	if (!trusted)
		return;
	if (result != FOUND) {
		count(TOA_WITHOUT);
		watch(ctx, sk, set);
		return;
	}
	client = bpf_sk_storage_get(&toa_clients, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!client) {
		count(TOA_FAILED);
		return;
	}
	count(place);
	fill(client, &found);
}

/*
 * A segment of a connection whose handshake had no option. Directors write it until they have seen the server
 * send, or with the first data; what comes after both is not theirs.
 */
static __always_inline void parse(struct bpf_sock_ops *ctx)
{
	const struct toa_settings *set = settings();
	struct bpf_sock *sk = ctx->sk;
	struct option found = {};
	struct toa_client *client;
	enum result result;

	if (!set || !sk)
		return;
	client = bpf_sk_storage_get(&toa_clients, sk, 0, 0);
	if (!client || client->known)
		return;
	if (ctx->bytes_received && ctx->data_segs_out) {
		unwatch(ctx, client);
		bpf_sk_storage_delete(&toa_clients, sk);
		return;
	}
	result = find_in_segment(ctx, set, &found);
	say(result, 1);
	if (result != FOUND)
		return;
	unwatch(ctx, client);
	count(TOA_IN_DATA);
	fill(client, &found);
}

SEC("sockops")
int toa_sockops(struct bpf_sock_ops *ctx)
{
	const struct toa_settings *set;
	int on = 1;

	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		set = settings();
		if (set && set->read_syn)
			bpf_setsockopt(ctx, SOL_TCP, TCP_SAVE_SYN, &on, sizeof(on));
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		established(ctx);
		break;
	case BPF_SOCK_OPS_PARSE_HDR_OPT_CB:
		parse(ctx);
		break;
	}
	return 1;
}

static __always_inline const struct toa_client *known_client(struct bpf_sock_addr *ctx)
{
	const struct toa_client *client;
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return NULL;
	client = bpf_sk_storage_get(&toa_clients, sk, 0, 0);
	if (!client || !client->known)
		return NULL;
	count(TOA_ANSWERED);
	return client;
}

SEC("cgroup/getpeername4")
int toa_getpeername4(struct bpf_sock_addr *ctx)
{
	const struct toa_client *client = known_client(ctx);

	if (client) {
		ctx->user_ip4 = client->address[3];
		ctx->user_port = client->port;
	}
	return 1;
}

SEC("cgroup/getpeername6")
int toa_getpeername6(struct bpf_sock_addr *ctx)
{
	const struct toa_client *client = known_client(ctx);

	if (client) {
		ctx->user_ip6[0] = client->address[0];
		ctx->user_ip6[1] = client->address[1];
		ctx->user_ip6[2] = client->address[2];
		ctx->user_ip6[3] = client->address[3];
		ctx->user_port = client->port;
	}
	return 1;
}

#define TEXT(number) #number
#define TEXT_OF(macro) TEXT(macro)

/* The number that this is made for. Read by nothing that runs: a package's content tells it so. */
const char toa_option[] SEC("toa.option") = "TCP option " TEXT_OF(TOA_DEFAULT);

char _license[] SEC("license") = "GPL";
