/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "say.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

int say(char **ret_error, int error, const char *format, ...)
{
	char *text = NULL;
	va_list ap;

	va_start(ap, format);
	if (vasprintf(&text, format, ap) < 0)
		text = NULL;
	va_end(ap);
	free(*ret_error); /* it may be one of the arguments */
	*ret_error = text;
	return error;
}
