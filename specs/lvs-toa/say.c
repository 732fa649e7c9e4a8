// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdarg.h>
#include <stdio.h>

#include "say.h"

static void neutral(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == 0x7f)
			*text = '?';
}

void say_plain(const char *format, ...)
{
	char text[1024];
	va_list words;

	va_start(words, format);
	vsnprintf(text, sizeof(text), format, words);
	va_end(words);
	neutral(text);
	fprintf(stderr, "%s\n", text);
}

void say_error(const char *object, const char *why, const char *next, const char *format, ...)
{
	char text[1024];
	va_list words;

	va_start(words, format);
	vsnprintf(text, sizeof(text), format, words);
	va_end(words);
	say_plain("lvs-toa: %s: %s", object, text);
	if (why)
		say_plain("  why: %s", why);
	say_plain("  next: %s", next);
}
