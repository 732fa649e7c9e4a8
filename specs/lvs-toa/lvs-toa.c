// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lvs-toa: have real servers behind a FULLNAT director see their clients' addresses.
 *
 * This file is its command line. What is attached outlives it.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cidr.h"
#include "config.h"
#include "host.h"
#include "programs.h"
#include "say.h"

#ifndef VERSION
#define VERSION "unknown"
#endif

/* Exit codes; 3 is what systemctl status and LSB scripts take for stopped. */
enum { DONE = 0, FAILED = 1, USAGE = 2, STOPPED = 3 };

struct options {
	const char *config;
	bool json;
};

static const char usage[] =
	"usage: lvs-toa [--config FILE] COMMAND\n"
	"\n"
	"  start                   read TOA from now on; when started already, replace the programs without a gap\n"
	"                          and take the configuration anew\n"
	"  stop                    detach and remove everything\n"
	"  status [--json]         what is attached, what is trusted, and what was counted\n"
	"  trust add CIDR...       believe these directors, until the next start\n"
	"  trust remove CIDR...    stop believing them, until the next start\n"
	"  trust list [--json]     the trusted prefixes\n"
	"  check [--json]          read the configuration, say what it means, change nothing\n"
	"\n"
	"  --config FILE           instead of " CONFIG_FILE "\n"
	"  --version, --help\n"
	"\n"
	"Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 not started. More: man lvs-toa\n";

static const char *const counter_names[TOA_COUNTERS] = {
	[TOA_SEEN] = "seen",	       [TOA_ACCEPTED] = "accepted",   [TOA_IN_ACK] = "in_ack",
	[TOA_IN_SYN] = "in_syn",       [TOA_IN_DATA] = "in_data",     [TOA_WITHOUT] = "without",
	[TOA_UNTRUSTED] = "untrusted", [TOA_MALFORMED] = "malformed", [TOA_IPV6] = "ipv6",
	[TOA_FAILED] = "failed",       [TOA_ANSWERED] = "answered",
};

static const char *const counter_texts[TOA_COUNTERS] = {
	[TOA_SEEN] = "connections with the option, well formed",
	[TOA_ACCEPTED] = "of these, those whose client is known now",
	[TOA_IN_ACK] = "  read where the connection is established",
	[TOA_IN_SYN] = "  read in the SYN",
	[TOA_IN_DATA] = "  read in the first data",
	[TOA_WITHOUT] = "connections of trusted directors without it in the handshake",
	[TOA_UNTRUSTED] = "options ignored: the sender is not trusted",
	[TOA_MALFORMED] = "options ignored: wrong length or address",
	[TOA_IPV6] = "options ignored: an IPv6 client",
	[TOA_FAILED] = "connections that lost it: no memory",
	[TOA_ANSWERED] = "calls of getpeername and accept answered with a client",
};

static int wrong_usage(const char *what, const char *word)
{
	say_error("usage", NULL, "lvs-toa --help", "%s '%.60s'", what, word);
	return USAGE;
}

static void json_text(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			printf("\\%c", *text);
		else if ((unsigned char)*text < ' ' || *text == 0x7f)
			printf("\\u%04x", (unsigned int)*text);
		else
			putchar(*text);
	}
	putchar('"');
}

static void show_kinds(const struct toa_settings *settings, const char *between)
{
	unsigned int i;

	for (i = 0; i < config_kinds(settings); i++)
		printf("%s%u", i ? between : "", settings->kinds[i]);
}

/* The configuration for what only compares with it: one that cannot be read is as if it trusted nobody. */
static struct config *config_for(const struct options *options)
{
	struct config *config = calloc(1, sizeof(*config));

	if (!config)
		abort();
	if (!config_read(options->config, config))
		config->prefixes = 0;
	return config;
}

static int start(const struct options *options)
{
	struct config *config = calloc(1, sizeof(*config));
	struct cgroup cgroup;
	int code = FAILED;

	if (!config)
		abort();
	if (!config_read(options->config, config))
		code = USAGE;
	else if (host_can_run() && programs_lock() && host_open_cgroup(config->cgroup, &cgroup)) {
		if (programs_start(config, &cgroup))
			code = DONE;
		close(cgroup.fd);
	}
	if (code == DONE && !config->prefixes)
		say_error(
			"trust",
			"whoever connects could claim any address, so none is believed that is not named",
			"trust = the director's local addresses, in the configuration, then lvs-toa start",
			"no director is trusted: every option is ignored");
	free(config);
	return code;
}

static int stop(void)
{
	struct running running;

	if (!programs_look(&running))
		return FAILED;
	if (!running.pins)
		return DONE;
	return programs_lock() && programs_stop() ? DONE : FAILED;
}

/* Call `each` with every trusted prefix as text, and whether the configuration names it. */
static bool each_prefix(int map, const struct config *config,
			void (*each)(const char *text, bool named, bool first))
{
	struct toa_prefix key, next;
	char text[CIDR_TEXT];
	void *from = NULL;

	while (!bpf_map_get_next_key(map, from, &next)) {
		cidr_format(&next, text);
		each(text, config_trusts(config, &next), !from);
		key = next;
		from = &key;
	}
	return errno == ENOENT;
}

static void json_prefix(const char *text, bool named, bool first)
{
	printf("%s{\"cidr\": \"%s\", \"configured\": %s}", first ? "" : ", ", text,
	       named ? "true" : "false");
}

static void show_prefix(const char *text, bool named, bool first)
{
	(void)first;
	printf("%s%s\n", text, named ? "" : "  (until the next start)");
}

static void indent_prefix(const char *text, bool named, bool first)
{
	printf("%-12s%s%s\n", first ? "trusted" : "", text,
	       named ? "" : "  (until the next start)");
}

static int list_trust(const struct options *options)
{
	int map = programs_map("toa_trusted");
	struct config *config;
	bool done;

	if (map < 0)
		return errno == ENOENT ? STOPPED : FAILED;
	config = config_for(options);
	if (options->json)
		printf("[");
	done = each_prefix(map, config, options->json ? json_prefix : show_prefix);
	if (options->json)
		printf("]\n");
	free(config);
	close(map);
	return done ? DONE : FAILED;
}

static int change_prefix(int map, const struct toa_prefix *prefix, bool add,
			 const struct config *config)
{
	char text[CIDR_TEXT];
	__u32 one = 1;

	cidr_format(prefix, text);
	if (add ? bpf_map_update_elem(map, prefix, &one, BPF_ANY) :
		  bpf_map_delete_elem(map, prefix)) {
		if (errno == ENOENT)
			say_error("trust", NULL, "lvs-toa trust list shows those that are",
				  "%s is not among the prefixes", text);
		else if (errno == ENOSPC)
			say_error("trust", NULL, "name shorter prefixes that hold several",
				  "%s is one too many; expected %d prefixes at most", text,
				  TOA_PREFIXES);
		else
			say_error("trust", NULL, "see the kernel's log", "cannot change %s: %s",
				  text, strerror(errno));
		return FAILED;
	}
	if (config_trusts(config, prefix) != add)
		say_plain(
			"lvs-toa: trust: %s %s until the next start; for good: %s 'trust = %s' in the configuration",
			text, add ? "is trusted" : "is not trusted", add ? "write" : "remove",
			text);
	return DONE;
}

/* All words are read before anything is changed. */
static int change_trust(const struct options *options, bool add, char **words)
{
	char wrong[CIDR_WRONG];
	struct toa_prefix prefix;
	struct config *config;
	int i, map, code = DONE;

	if (!words[0])
		return wrong_usage("no CIDR behind trust", add ? "add" : "remove");
	for (i = 0; words[i]; i++) {
		if (!cidr_parse(words[i], &prefix, wrong)) {
			say_error("usage", NULL, "lvs-toa trust list shows how they are written",
				  "%s", wrong);
			return USAGE;
		}
	}
	map = programs_map("toa_trusted");
	if (map < 0)
		return errno == ENOENT ? STOPPED : FAILED;
	config = config_for(options);
	if (!programs_lock())
		code = FAILED;
	for (i = 0; words[i] && code == DONE; i++) {
		cidr_parse(words[i], &prefix, wrong);
		code = change_prefix(map, &prefix, add, config);
	}
	free(config);
	close(map);
	return code;
}

static int trust(const struct options *options, char **words)
{
	if (words[0] && !strcmp(words[0], "list") && !words[1])
		return list_trust(options);
	if (words[0] && !strcmp(words[0], "add"))
		return change_trust(options, true, words + 1);
	if (words[0] && !strcmp(words[0], "remove"))
		return change_trust(options, false, words + 1);
	return wrong_usage("trust takes add, remove or list, not",
			   words[0] ? words[words[1] ? 1 : 0] : "");
}

static void show_programs(const struct running *running, const struct config *config, bool json)
{
	char path[PATH_MAX];
	int i;

	for (i = 0; i < PROGRAMS; i++) {
		const struct attached *each = &running->programs[i];
		bool there = each->program_id && each->cgroup_id;

		if (there && !host_cgroup_path(config->cgroup, each->cgroup_id, path))
			snprintf(path, sizeof(path), "cgroup %llu", each->cgroup_id);
		if (json && there) {
			printf("%s{\"name\": \"%s\", \"id\": %u, \"cgroup\": ", i ? ", " : "",
			       each->name, each->program_id);
			json_text(path);
			printf("}");
		} else if (json)
			printf("%s{\"name\": \"%s\", \"id\": null, \"cgroup\": null}",
			       i ? ", " : "", each->name);
		else if (there)
			printf("%-12s%-20s %u at %s\n", i ? "" : "programs", each->name,
			       each->program_id, path);
		else
			printf("%-12s%-20s not attached\n", i ? "" : "programs", each->name);
	}
}

static const char *state(const struct running *running)
{
	if (!running->pins && !running->attached)
		return "stopped";
	return running->attached == PROGRAMS ? "running" : "incomplete";
}

static void status_json(const struct running *running, const struct toa_settings *settings, int map,
			const unsigned long long *counters, const struct config *config)
{
	int i;

	printf("{\"version\": \"%s\", \"state\": \"%s\", \"options\": [", VERSION, state(running));
	show_kinds(settings, ", ");
	printf("], \"read_syn\": %s, \"trusted\": [", settings->read_syn ? "true" : "false");
	each_prefix(map, config, json_prefix);
	printf("], \"programs\": [");
	show_programs(running, config, true);
	printf("], \"counters\": {");
	for (i = 0; i < TOA_COUNTERS; i++)
		printf("%s\"%s\": %llu", i ? ", " : "", counter_names[i], counters[i]);
	printf("}}\n");
}

static void status_text(const struct running *running, const struct toa_settings *settings, int map,
			const unsigned long long *counters, const struct config *config)
{
	struct toa_prefix any;
	int i;

	printf("lvs-toa %s: %s\n%-12s", VERSION, state(running), "options");
	show_kinds(settings, " ");
	printf("\n%-12s%s\n", "SYN", settings->read_syn ? "read" : "not read");
	if (bpf_map_get_next_key(map, NULL, &any))
		printf("%-12snobody: every option is ignored\n", "trusted");
	each_prefix(map, config, indent_prefix);
	show_programs(running, config, false);
	for (i = 0; i < TOA_COUNTERS; i++)
		printf("%-12s%12llu  %s\n", counter_names[i], counters[i], counter_texts[i]);
}

static int status(const struct options *options)
{
	unsigned long long counters[TOA_COUNTERS];
	struct toa_settings settings;
	struct running running;
	struct config *config;
	int map, trusted, code = FAILED;
	__u32 zero = 0;

	if (!programs_look(&running))
		return FAILED;
	if (!running.pins) {
		if (options->json)
			printf("{\"version\": \"%s\", \"state\": \"stopped\"}\n", VERSION);
		else
			printf("lvs-toa %s: stopped\n", VERSION);
		return STOPPED;
	}
	map = programs_map("toa_settings");
	trusted = programs_map("toa_trusted");
	config = config_for(options);
	if (map >= 0 && trusted >= 0 && !bpf_map_lookup_elem(map, &zero, &settings) &&
	    programs_counters(counters)) {
		(options->json ? status_json : status_text)(&running, &settings, trusted, counters,
							    config);
		code = running.attached == PROGRAMS ? DONE : FAILED;
	}
	if (running.attached != PROGRAMS)
		say_error("BPF programs", "clients' addresses are not read everywhere",
			  "lvs-toa start", "%u of %d are attached", running.attached, PROGRAMS);
	free(config);
	return code;
}

static int check(const struct options *options)
{
	struct config *config = calloc(1, sizeof(*config));
	char text[CIDR_TEXT];
	unsigned int i;

	if (!config)
		abort();
	if (!config_read(options->config, config)) {
		free(config);
		return USAGE;
	}
	printf(options->json ? "{\"options\": [" : "options     ");
	show_kinds(&config->settings, options->json ? ", " : " ");
	printf(options->json ? "], \"read_syn\": %s, \"cgroup\": " :
			       "\nread-syn    %s\ncgroup      ",
	       config->settings.read_syn ? (options->json ? "true" : "yes") :
					   (options->json ? "false" : "no"));
	if (options->json)
		json_text(config->cgroup);
	else
		printf("%s\n", *config->cgroup ? config->cgroup : "the root");
	printf(options->json ? ", \"trusted\": [" : "trusted     ");
	for (i = 0; i < config->prefixes; i++) {
		cidr_format(&config->trusted[i], text);
		printf(options->json ? "%s\"%s\"" : "%s%s", i ? (options->json ? ", " : " ") : "",
		       text);
	}
	printf(options->json ? "]}\n" : "%s\n", config->prefixes ? "" : "nobody");
	free(config);
	return DONE;
}

static int command(const struct options *options, char **words)
{
	static const struct {
		const char *name;
		int (*run)(const struct options *options);
		bool json;
	} plain[] = { { "start", start, false },
		      { "status", status, true },
		      { "check", check, true } };
	size_t i;

	if (!words[0])
		return wrong_usage("no command; expected start, stop, status, trust or check, not",
				   "");
	if (!strcmp(words[0], "trust"))
		return trust(options, words + 1);
	if (words[1])
		return wrong_usage("one word too many:", words[1]);
	if (!strcmp(words[0], "stop") && !options->json)
		return stop();
	for (i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
		if (!strcmp(words[0], plain[i].name) && (plain[i].json || !options->json))
			return plain[i].run(options);
	return wrong_usage(options->json ? "--json is not for the command" : "no command",
			   words[0]);
}

static int written(int code)
{
	if (!fflush(stdout) && !ferror(stdout))
		return code;
	say_error("output", NULL, "see whether the disk is full", "cannot be written: %s",
		  strerror(errno));
	return FAILED;
}

int main(int count, char **words)
{
	static const struct option long_options[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{},
	};
	struct options options = { .config = CONFIG_FILE };
	int option;

	while ((option = getopt_long(count, words, "h", long_options, NULL)) != -1) {
		switch (option) {
		case 'c':
			options.config = optarg;
			break;
		case 'j':
			options.json = true;
			break;
		case 'h':
			fputs(usage, stdout);
			return written(DONE);
		case 'V':
			printf("lvs-toa %s\n", VERSION);
			return written(DONE);
		default:
			say_plain("  next: lvs-toa --help");
			return USAGE;
		}
	}
	return written(command(&options, words + optind));
}
