/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

/*
 * DESIGN: a line is formatted on the stack and leaves in one write(2), so that lines of several
 * threads never mix and no lock is held while stderr is slow. Line breaks and other control
 * characters inside (they come from file names) become '?': one line is one event. A line that is
 * too long is cut. errno is kept, so that a caller may log and then return it.
 */

#define LOG_LINE_MAX 8192

static _Atomic int log_level = LOG_LEVEL_NOTICE;
static atomic_bool log_syslog;

static const char *const level_names[] = {
	[LOG_LEVEL_ERROR] = "error",
	[LOG_LEVEL_WARNING] = "warning",
	[LOG_LEVEL_NOTICE] = "notice",
	[LOG_LEVEL_INFO] = "info",
	[LOG_LEVEL_DEBUG] = "debug",
};

void log_set_level(enum log_level level)
{
	log_level = level;
}

int log_level_parse(const char *name, enum log_level *ret)
{
	for (int i = LOG_LEVEL_ERROR; i <= LOG_LEVEL_DEBUG; i++) {
		if (strcmp(name, level_names[i]) == 0) {
			*ret = i;
			return 0;
		}
	}
	return -EINVAL;
}

void log_to_syslog(const char *ident)
{
	openlog(ident, LOG_PID | LOG_NDELAY, LOG_DAEMON);
	log_syslog = true;
}

bool log_enabled(enum log_level level)
{
	return (int)level <= log_level;
}

static void mask_control(char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < ' ' || *s == 0x7f)
			*s = '?';
}

static void line_to_stderr(enum log_level level, const char *text)
{
	char line[LOG_LINE_MAX + 32];
	int n = snprintf(line, sizeof(line), "tandemfs: %s: %s\n", level_names[level], text);
	ssize_t written;

	do {
		written = write(STDERR_FILENO, line, (size_t)n);
	} while (written < 0 && errno == EINTR);
}

void log_line(enum log_level level, const char *format, ...)
{
	char text[LOG_LINE_MAX];
	int saved = errno;
	va_list ap;

	if (!log_enabled(level))
		return;
	va_start(ap, format);
	if (vsnprintf(text, sizeof(text), format, ap) < 0)
		text[0] = 0;
	va_end(ap);
	mask_control(text);
	if (log_syslog)
		syslog(level, "%s", text);
	else
		line_to_stderr(level, text);
	errno = saved;
}
