/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * sftp://[user@]host[:port]/path
 *
 *   user   percent-encoded; no ':' (a password would end up in fstab and in the process list)
 *   host   a name, an IPv4 address, or an IPv6 address in brackets, with a zone as %25ZONE
 *   port   1 to 65535, 22 when absent
 *   path   percent-encoded, absolute; no "." or ".." component; repeated and trailing slashes
 *          are dropped
 *
 * What is refused is refused with the reason and the remedy; nothing is guessed.
 */

#include "peer_url.h"

#include "replicate/base/cleanup.h"
#include "replicate/base/confine.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <string.h>

#define SCHEME "sftp://"
#define HOST_MAX 255
#define USER_MAX 255

static int refuse(char **ret_error, const char *reason)
{
	*ret_error = strdup(reason);
	return *ret_error ? -EINVAL : -ENOMEM;
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)tolower((unsigned char)c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decodes @len bytes with %XX. -EINVAL for a bad escape or a control character. */
static int percent_decode(const char *text, size_t len, char **ret)
{
	_cleanup_free_ char *out = malloc(len + 1);
	size_t n = 0;

	if (!out)
		return -ENOMEM;
	for (size_t i = 0; i < len; i++) {
		char c = text[i];

		if (c == '%') {
			int high = i + 2 < len ? hex_value(text[i + 1]) : -1;
			int low = i + 2 < len ? hex_value(text[i + 2]) : -1;

			if (high < 0 || low < 0)
				return -EINVAL;
			c = (char)(high * 16 + low);
			i += 2;
		}
		if (iscntrl((unsigned char)c))
			return -EINVAL;
		out[n++] = c;
	}
	out[n] = '\0';
	*ret = steal_pointer(&out);
	return 0;
}

static int parse_user(const char *text, size_t len, char **ret, char **ret_error)
{
	int r;

	if (memchr(text, ':', len))
		return refuse(ret_error,
			"a password does not belong in the URL, where everybody can read it: "
			"use identity=FILE or password_file=FILE");
	if (len == 0 || len > USER_MAX)
		return refuse(ret_error, "the user name before @ is empty or too long");
	r = percent_decode(text, len, ret);
	if (r == -EINVAL)
		return refuse(ret_error, "the user name has a bad %XX or a control character");
	return r;
}

static bool host_name_valid(const char *s)
{
	if (!*s || *s == '-' || *s == '.')
		return false;
	for (; *s; s++)
		if (!isalnum((unsigned char)*s) && !strchr("-._", *s))
			return false;
	return true;
}

/* fe80::1 or fe80::1%zone. */
static bool ipv6_valid(const char *s)
{
	char address[INET6_ADDRSTRLEN];
	struct in6_addr parsed;
	size_t len = strcspn(s, "%");

	if (len >= sizeof(address) || (s[len] && !host_name_valid(s + len + 1)))
		return false;
	memcpy(address, s, len);
	address[len] = '\0';
	return inet_pton(AF_INET6, address, &parsed) == 1;
}

static int parse_bracketed(
	const char *text, size_t len, char **ret, const char **ret_rest, char **ret_error)
{
	const char *end = memchr(text, ']', len);
	_cleanup_free_ char *host = NULL;
	int r;

	if (!end)
		return refuse(ret_error, "the IPv6 address has no closing bracket");
	r = percent_decode(text + 1, (size_t)(end - text - 1), &host);
	if (r == -ENOMEM)
		return r;
	if (r < 0 || !ipv6_valid(host))
		return refuse(ret_error, "what is in brackets is no IPv6 address");
	*ret = steal_pointer(&host);
	*ret_rest = end + 1;
	return 0;
}

static int parse_name(
	const char *text, size_t len, char **ret, const char **ret_rest, char **ret_error)
{
	const char *colon = memchr(text, ':', len);
	size_t n = colon ? (size_t)(colon - text) : len;
	_cleanup_free_ char *host = NULL;

	if (colon && memchr(colon + 1, ':', len - n - 1))
		return refuse(ret_error, "an IPv6 address goes in brackets: sftp://[::1]/path");
	if (n > HOST_MAX)
		return refuse(ret_error, "the host name is too long");
	host = strndup(text, n);
	if (!host)
		return -ENOMEM;
	if (!host_name_valid(host))
		return refuse(ret_error, n ? "the host name has characters that no host name has"
					   : "the host is missing: sftp://host/path");
	*ret = steal_pointer(&host);
	*ret_rest = text + n;
	return 0;
}

/* ":1234" or nothing, up to @end. */
static int parse_port(const char *text, const char *end, uint16_t *ret, char **ret_error)
{
	unsigned long port = 0;

	if (text == end) {
		*ret = 22;
		return 0;
	}
	if (*text != ':' || text + 1 == end || end - text > 6)
		return refuse(
			ret_error, "after the host comes :PORT, from 1 to 65535, or the path");
	for (text++; text < end; text++) {
		if (!isdigit((unsigned char)*text))
			return refuse(ret_error, "the port is no number");
		port = port * 10 + (unsigned long)(*text - '0');
	}
	if (port < 1 || port > 65535)
		return refuse(ret_error, "the port is from 1 to 65535");
	*ret = (uint16_t)port;
	return 0;
}

/* Drops repeated and trailing slashes in place. -EINVAL for "." and "..". */
static int path_tidy(char *path)
{
	char *out = path;

	for (const char *in = path; *in;) {
		size_t len;

		in += strspn(in, "/");
		len = strcspn(in, "/");
		if (len == 0)
			break;
		if ((len == 1 && in[0] == '.') || (len == 2 && in[0] == '.' && in[1] == '.'))
			return -EINVAL;
		*out++ = '/';
		memmove(out, in, len);
		out += len;
		in += len;
	}
	if (out == path)
		*out++ = '/';
	*out = '\0';
	return 0;
}

static int parse_path(const char *text, char **ret, char **ret_error)
{
	_cleanup_free_ char *path = NULL;
	int r;

	if (*text != '/')
		return refuse(ret_error,
			"the path is missing: it is the peer's backing directory, sftp://host/path");
	if (strpbrk(text, "?#"))
		return refuse(ret_error, "? and # in the path are written as %3F and %23");
	r = percent_decode(text, strlen(text), &path);
	if (r == -EINVAL)
		return refuse(ret_error, "the path has a bad %XX or a control character");
	if (r < 0)
		return r;
	if (strlen(path) > TANDEMFS_PATH_MAX)
		return refuse(ret_error, "the path is too long");
	if (path_tidy(path) < 0)
		return refuse(ret_error, "the path must not have . or .. in it");
	*ret = steal_pointer(&path);
	return 0;
}

/* [user@]host[:port] */
static int parse_authority(
	const char *text, size_t len, struct replica_peer_config *p, char **ret_error)
{
	const char *at = memrchr(text, '@', len), *end = text + len, *rest;
	char *user = NULL, *host = NULL;
	int r;

	if (at) {
		r = parse_user(text, (size_t)(at - text), &user, ret_error);
		if (r < 0)
			return r;
		p->user = user;
		text = at + 1;
		len = (size_t)(end - text);
	}
	if (len > 0 && *text == '[')
		r = parse_bracketed(text, len, &host, &rest, ret_error);
	else
		r = parse_name(text, len, &host, &rest, ret_error);
	if (r < 0)
		return r;
	p->host = host;
	return parse_port(rest, end, &p->port, ret_error);
}

int peer_url_parse(const char *url, struct replica_peer_config *ret, char **ret_error)
{
	struct replica_peer_config p = {0};
	const char *authority = url + strlen(SCHEME);
	char *path = NULL;
	size_t len;
	int r;

	if (strncmp(url, SCHEME, strlen(SCHEME)) != 0)
		return refuse(ret_error, "a peer is written as sftp://[user@]host[:port]/path");
	len = strcspn(authority, "/");
	r = parse_authority(authority, len, &p, ret_error);
	if (r == 0)
		r = parse_path(authority + len, &path, ret_error);
	if (r == 0) {
		p.path = path;
		p.url = strdup(url);
		if (!p.url)
			r = -ENOMEM;
	}
	if (r < 0) {
		peer_url_clear(&p);
		return r;
	}
	*ret = p;
	return 0;
}

void peer_url_clear(struct replica_peer_config *p)
{
	free((char *)p->url);
	free((char *)p->user);
	free((char *)p->host);
	free((char *)p->path);
	*p = (struct replica_peer_config){0};
}

bool peer_url_equal(const struct replica_peer_config *a, const struct replica_peer_config *b)
{
	return a->port == b->port && strcasecmp(a->host, b->host) == 0 &&
	       strcmp(a->path, b->path) == 0;
}
