/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_LOG_H
#define TANDEMFS_LOG_H

/*
 * The daemon's log. Lines go to stderr until log_to_syslog() and are safe to write from any
 * thread. A line names the operation, the path, the peer and the errno's text, once, where
 * something is done about it; leaf modules return the error instead.
 */

#include <stdbool.h>

/* The values of syslog(3), so that a level can be handed to it as it is. */
enum log_level {
	LOG_LEVEL_ERROR = 3,
	LOG_LEVEL_WARNING = 4,
	LOG_LEVEL_NOTICE = 5,
	LOG_LEVEL_INFO = 6,
	LOG_LEVEL_DEBUG = 7,
};

/* Lines above @level are dropped; LOG_LEVEL_NOTICE at first. */
void log_set_level(enum log_level level);

/* "error", "warning", "notice", "info" or "debug"; -EINVAL for anything else. */
int log_level_parse(const char *name, enum log_level *ret);

/* From now on to syslog(3) under @ident (kept, not copied), facility daemon. */
void log_to_syslog(const char *ident);

bool log_enabled(enum log_level level);

__attribute__((format(printf, 2, 3))) void log_line(enum log_level level, const char *format, ...);

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...) log_line(LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)                                                                             \
	do {                                                                                       \
		if (log_enabled(LOG_LEVEL_DEBUG))                                                  \
			log_line(LOG_LEVEL_DEBUG, __VA_ARGS__);                                    \
	} while (0)

#endif
