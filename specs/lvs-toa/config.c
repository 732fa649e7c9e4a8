// SPDX-License-Identifier: GPL-2.0-or-later
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cidr.h"
#include "config.h"
#include "say.h"

#define BLANKS " \t\r\n"
#define LINE_MOST 4096

struct place {
	const char *path;
	unsigned int line;
	bool failed;
};

/* Options that TCP itself uses: to read one of them as an address would be wrong for nearly every connection. */
static const struct {
	unsigned int kind;
	const char *name;
} taken[] = {
	{ 0, "the end of the options" },
	{ 1, "no operation" },
	{ 2, "the maximum segment size" },
	{ 3, "window scale" },
	{ 4, "SACK permitted" },
	{ 5, "SACK" },
	{ 8, "timestamps" },
	{ 19, "the MD5 signature" },
	{ 28, "the user timeout" },
	{ 29, "TCP-AO" },
	{ 30, "MPTCP" },
	{ 34, "the Fast Open cookie" },
};

__attribute__((format(printf, 2, 3))) static void mistake(struct place *place, const char *format,
							  ...)
{
	char text[512];
	va_list words;

	va_start(words, format);
	vsnprintf(text, sizeof(text), format, words);
	va_end(words);
	say_plain("%s:%u: %s", place->path, place->line, text);
	place->failed = true;
}

unsigned int config_kinds(const struct toa_settings *settings)
{
	unsigned int kinds = 0;

	while (kinds < TOA_KINDS && settings->kinds[kinds])
		kinds++;
	return kinds;
}

static void read_kind(struct place *place, const char *word, struct config *config)
{
	struct toa_settings *settings = &config->settings;
	unsigned int kind, kinds = config_kinds(settings);
	size_t i;

	if (strlen(word) > 3 || strspn(word, "0123456789") != strlen(word) || atoi(word) > 255) {
		mistake(place,
			"option: '%.40s' is not the number of a TCP option; expected %u, or another below 256",
			word, TOA_DEFAULT);
		return;
	}
	kind = (unsigned int)atoi(word);
	for (i = 0; i < sizeof(taken) / sizeof(taken[0]); i++) {
		if (taken[i].kind == kind) {
			mistake(place,
				"option: %u is TCP's own, %s; expected the director's, such as %u",
				kind, taken[i].name, TOA_DEFAULT);
			return;
		}
	}
	for (i = 0; i < kinds; i++)
		if (settings->kinds[i] == kind)
			return;
	if (kinds == TOA_KINDS) {
		mistake(place, "option: %u is one too many; expected %d numbers at most", kind,
			TOA_KINDS);
		return;
	}
	settings->kinds[kinds] = (__u8)kind;
	settings->watch_all |= kind == 253 || kind == 254;
}

static void read_trust(struct place *place, const char *word, struct config *config)
{
	struct toa_prefix prefix;
	char wrong[CIDR_WRONG];

	if (!cidr_parse(word, &prefix, wrong)) {
		mistake(place, "trust: %s", wrong);
		return;
	}
	if (config_trusts(config, &prefix))
		return;
	if (config->prefixes == TOA_PREFIXES) {
		mistake(place, "trust: %.60s is one too many; expected %d prefixes at most", word,
			TOA_PREFIXES);
		return;
	}
	config->trusted[config->prefixes++] = prefix;
}

static void read_yes_no(struct place *place, const char *word, struct config *config)
{
	if (strcmp(word, "yes") && strcmp(word, "no"))
		mistake(place, "read-syn: '%.40s'; expected yes or no", word);
	config->settings.read_syn = !strcmp(word, "yes");
}

static void read_cgroup(struct place *place, const char *word, struct config *config)
{
	if (*word != '/' || strlen(word) >= sizeof(config->cgroup))
		mistake(place,
			"cgroup: '%.40s' is not a directory's whole path; expected one such as /sys/fs/cgroup",
			word);
	else
		strcpy(config->cgroup, word);
}

static const struct key {
	const char *name;
	void (*read)(struct place *place, const char *word, struct config *config);
	bool many;
} keys[] = {
	{ "option", read_kind, true },
	{ "trust", read_trust, true },
	{ "read-syn", read_yes_no, false },
	{ "cgroup", read_cgroup, false },
};

/* Read `KEY = WORD...`. Keys that take many words may stand in many lines. */
static void read_line(struct place *place, char *line, struct config *config)
{
	char *name, *words, *word, *next;
	unsigned int count = 0;
	size_t i;

	line[strcspn(line, "#")] = 0;
	line += strspn(line, BLANKS);
	if (!*line)
		return;
	words = strchr(line, '=');
	if (!words) {
		mistake(place, "'%.40s' is not a setting; expected KEY = VALUE",
			strtok_r(line, "\r\n", &next));
		return;
	}
	*words++ = 0;
	name = strtok_r(line, BLANKS, &next);
	for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (name && !strcmp(name, keys[i].name) && !strtok_r(NULL, BLANKS, &next))
			break;
	if (i == sizeof(keys) / sizeof(keys[0])) {
		mistake(place,
			"'%.40s' is not a setting; expected option, trust, read-syn or cgroup",
			name ? name : "");
		return;
	}
	for (word = strtok_r(words, BLANKS, &next); word; word = strtok_r(NULL, BLANKS, &next)) {
		if (count++ && !keys[i].many) {
			mistake(place, "%s: '%.40s' is too much; expected one value", keys[i].name,
				word);
			return;
		}
		keys[i].read(place, word, config);
	}
	if (!count)
		mistake(place, "%s: no value; expected one behind '='", keys[i].name);
}

bool config_read(const char *path, struct config *config)
{
	struct place place = { .path = path };
	char line[LINE_MOST];
	FILE *file;

	memset(config, 0, sizeof(*config));
	config->settings.read_syn = 1;
	file = fopen(path, "re");
	if (!file) {
		say_error("configuration",
			  "the option numbers and the trusted directors stand there",
			  "install the package's file again, or name another with --config",
			  "cannot read %s: %s", path, strerror(errno));
		return false;
	}
	while (fgets(line, sizeof(line), file)) {
		place.line++;
		if (strlen(line) == sizeof(line) - 1 && line[sizeof(line) - 2] != '\n') {
			mistake(&place, "a line of more than %d bytes; expected a shorter one",
				LINE_MOST - 2);
			break;
		}
		read_line(&place, line, config);
	}
	if (ferror(file))
		mistake(&place, "cannot be read further: %s", strerror(errno));
	fclose(file);
	if (!config->settings.kinds[0])
		config->settings.kinds[0] = TOA_DEFAULT;
	if (place.failed)
		say_error("configuration",
			  "a mistake in it could lose clients' addresses without a sign",
			  "correct the lines above; man lvs-toa describes each setting",
			  "%s has mistakes", path);
	return !place.failed;
}

bool config_trusts(const struct config *config, const struct toa_prefix *prefix)
{
	unsigned int i;

	for (i = 0; i < config->prefixes; i++)
		if (!memcmp(&config->trusted[i], prefix, sizeof(*prefix)))
			return true;
	return false;
}
