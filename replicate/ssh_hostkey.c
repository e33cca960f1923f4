/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Whether the server is the one that known_hosts names. A key is never accepted silently. */

#include "ssh_state.h"

#include "base/cleanup.h"

#include <errno.h>
#include <string.h>

#define SYSTEM_KNOWN_HOSTS "/etc/ssh/ssh_known_hosts"

/* Kinds of host key, and their names in known_hosts and on the wire. */
static const struct kind {
	int type; /* LIBSSH2_HOSTKEY_TYPE_... */
	int mask; /* LIBSSH2_KNOWNHOST_KEY_... */
	const char *name;
	const char *methods;
} kinds[] = {
	{LIBSSH2_HOSTKEY_TYPE_ED25519, LIBSSH2_KNOWNHOST_KEY_ED25519, "ssh-ed25519", "ssh-ed25519"},
	{LIBSSH2_HOSTKEY_TYPE_ECDSA_256, LIBSSH2_KNOWNHOST_KEY_ECDSA_256, "ecdsa-sha2-nistp256",
		"ecdsa-sha2-nistp256"},
	{LIBSSH2_HOSTKEY_TYPE_ECDSA_384, LIBSSH2_KNOWNHOST_KEY_ECDSA_384, "ecdsa-sha2-nistp384",
		"ecdsa-sha2-nistp384"},
	{LIBSSH2_HOSTKEY_TYPE_ECDSA_521, LIBSSH2_KNOWNHOST_KEY_ECDSA_521, "ecdsa-sha2-nistp521",
		"ecdsa-sha2-nistp521"},
	{LIBSSH2_HOSTKEY_TYPE_RSA, LIBSSH2_KNOWNHOST_KEY_SSHRSA, "ssh-rsa",
#if LIBSSH2_VERSION_NUM < 0x010b00
		"ssh-rsa"},
#else
		"rsa-sha2-512,rsa-sha2-256,ssh-rsa"},
#endif
};
#define N_KINDS (sizeof(kinds) / sizeof(kinds[0]))

/* Calls @fn for each line of the known_hosts files that are to be asked. */
static void each_line(struct ssh *s, void (*fn)(void *ctx, const char *line, size_t len), void *ctx)
{
	char own[sizeof(s->home) + 32];
	const char *files[2] = {s->config->known_hosts, NULL};

	(void)snprintf(own, sizeof(own), "%s/.ssh/known_hosts", s->home);
	if (!files[0]) {
		files[0] = own;
		files[1] = SYSTEM_KNOWN_HOSTS;
	}
	for (size_t i = 0; i < 2 && files[i]; i++) {
		_cleanup_fclose_ FILE *f = fopen(files[i], "re");
		_cleanup_free_ char *line = NULL;
		size_t size = 0;
		ssize_t len;

		while (f && (len = getline(&line, &size, f)) > 0)
			fn(ctx, line, (size_t)len);
	}
}

static void add_line(void *ctx, const char *line, size_t len)
{
	/* comments, markers and kinds that this libssh2 does not know are refused: nothing to do */
	(void)libssh2_knownhost_readline(ctx, line, len, LIBSSH2_KNOWNHOST_FILE_OPENSSH);
}

static LIBSSH2_KNOWNHOSTS *load(struct ssh *s)
{
	LIBSSH2_KNOWNHOSTS *hosts = libssh2_knownhost_init(s->session);

	if (hosts)
		each_line(s, add_line, hosts);
	return hosts;
}

/* The two ways in which a line may name the server: the one that ssh writes, and the other. */
struct host_names {
	char text[2][300];
};

static struct host_names names_of(const struct remote_config *c)
{
	struct host_names n;
	bool usual = c->port == 22;

	(void)snprintf(n.text[!usual], sizeof(n.text[0]), "%s", c->host);
	(void)snprintf(n.text[usual], sizeof(n.text[0]), "[%s]:%u", c->host, c->port);
	return n;
}

static int check(LIBSSH2_KNOWNHOSTS *hosts, const char *name, const char *key, size_t len, int mask)
{
	struct libssh2_knownhost *found = NULL;

	return libssh2_knownhost_check(hosts, name, key, len,
		LIBSSH2_KNOWNHOST_TYPE_PLAIN | LIBSSH2_KNOWNHOST_KEYENC_RAW | mask, &found);
}

/* As ssh has it: a line with the host alone may vouch for a server on any port, but a server on
 * another port that is not the same one raises no alarm. */
static int check_names(
	struct ssh *s, LIBSSH2_KNOWNHOSTS *hosts, const char *key, size_t len, int mask)
{
	struct host_names names = names_of(s->config);
	int verdict = check(hosts, names.text[0], key, len, mask);

	if (verdict == LIBSSH2_KNOWNHOST_CHECK_NOTFOUND &&
		check(hosts, names.text[1], key, len, mask) == LIBSSH2_KNOWNHOST_CHECK_MATCH)
		return LIBSSH2_KNOWNHOST_CHECK_MATCH;
	return verdict;
}

/* Whether known_hosts has a key of the kind for the name: a made-up key then is a mismatch. */
static bool has_kind(LIBSSH2_KNOWNHOSTS *hosts, const char *name, const struct kind *k)
{
	return check(hosts, name, "x", 1, k->mask) == LIBSSH2_KNOWNHOST_CHECK_MISMATCH;
}

static bool has_any(LIBSSH2_KNOWNHOSTS *hosts, const char *name)
{
	for (size_t i = 0; i < N_KINDS; i++)
		if (has_kind(hosts, name, &kinds[i]))
			return true;
	return false;
}

void ssh_hostkey_prefer(struct ssh *s)
{
	LIBSSH2_KNOWNHOSTS *hosts = load(s);
	struct host_names names = names_of(s->config);
	const char *name;
	char list[256] = "";

	if (!hosts)
		return;
	name = names.text[!has_any(hosts, names.text[0])];
	for (int known = 1; known >= 0; known--)
		for (size_t i = 0; i < N_KINDS; i++) {
			size_t len = strlen(list);

			if (has_kind(hosts, name, &kinds[i]) == known)
				(void)snprintf(list + len, sizeof(list) - len, "%s%s",
					len ? "," : "", kinds[i].methods);
		}
	libssh2_knownhost_free(hosts);
	(void)libssh2_session_method_pref(s->session, LIBSSH2_METHOD_HOSTKEY, list);
}

/* Without padding, and a NUL; @dst has room for 4/3 of @len, and 3 more. */
static void base64(const uint8_t *data, size_t len, char *dst)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t n = 0;

	for (size_t bit = 0; bit < 8 * len; bit += 6) {
		size_t byte = bit / 8, shift = bit % 8;
		unsigned pair = (unsigned)data[byte] << 8 | (byte + 1 < len ? data[byte + 1] : 0u);

		dst[n++] = digits[pair >> (10 - shift) & 63];
	}
	dst[n] = '\0';
}

/* As `ssh-keygen -l` prints it. */
static void fingerprint(struct ssh *s, char dst[64])
{
	const char *h = libssh2_hostkey_hash(s->session, LIBSSH2_HOSTKEY_HASH_SHA256);

	dst[0] = '\0';
	if (h)
		base64((const uint8_t *)h, 32, dst);
}

struct revoked {
	const char *key; /* the host's, base64 */
	bool found;
};

/* A key that a line marks as revoked is refused whatever hosts the line names. */
static void look_for_revoked(void *ctx, const char *line, size_t len)
{
	struct revoked *r = ctx;
	const char *at;

	(void)len;
	if (strncmp(line, "@revoked", strlen("@revoked")) != 0)
		return;
	at = strstr(line, r->key);
	r->found |= at && (at[-1] == ' ' || at[-1] == '\t') &&
		    strcspn(at, " \t=\r\n") == strlen(r->key);
}

static bool is_revoked(struct ssh *s, const char *key, size_t len)
{
	_cleanup_free_ char *text = malloc(len / 3 * 4 + 8);
	struct revoked r = {.key = text};

	if (!text)
		return true;
	base64((const uint8_t *)key, len, text);
	each_line(s, look_for_revoked, &r);
	return r.found;
}

static const struct kind *kind_of(int type)
{
	for (size_t i = 0; i < N_KINDS; i++)
		if (kinds[i].type == type)
			return &kinds[i];
	return NULL;
}

static int refuse(struct ssh *s, const char *kind, int verdict, char **ret_error)
{
	const struct remote_config *c = s->config;
	const char *file = c->known_hosts ? c->known_hosts : "~/.ssh/known_hosts";
	char print[64];

	fingerprint(s, print);
	if (verdict == LIBSSH2_KNOWNHOST_CHECK_MISMATCH)
		return say(ret_error, -EKEYREJECTED,
			"THE HOST KEY OF %s port %u IS NOT THE ONE IN %s: it shows %s SHA256:%s. "
			"Somebody may be in between, or the server was set up anew: make sure, then "
			"remove the old line and add the new key",
			c->host, c->port, file, kind, print);
	return say(ret_error, -EKEYREJECTED,
		"the host key of %s port %u is not in %s: it shows %s SHA256:%s. Compare that with "
		"`ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub` there, then: ssh-keyscan -p %u %s >> %s",
		c->host, c->port, file, kind, print, c->port, c->host, file);
}

int ssh_hostkey_check(struct ssh *s, char **ret_error)
{
	const char *file = s->config->known_hosts;
	LIBSSH2_KNOWNHOSTS *hosts;
	const struct kind *k;
	const char *key;
	size_t len;
	int type, verdict;

	if (file && access(file, R_OK) < 0 && errno != ENOENT)
		return say(ret_error, -EKEYREJECTED, "known_hosts=%s cannot be read: %s", file,
			strerror(errno));
	hosts = load(s);
	if (!hosts)
		return -ENOMEM;
	key = libssh2_session_hostkey(s->session, &len, &type);
	k = kind_of(type);
	verdict = key ? check_names(s, hosts, key, len, k ? k->mask : LIBSSH2_KNOWNHOST_KEY_UNKNOWN)
		      : LIBSSH2_KNOWNHOST_CHECK_FAILURE;
	libssh2_knownhost_free(hosts);
	if (key && is_revoked(s, key, len))
		return say(ret_error, -EKEYREJECTED,
			"the host key of %s port %u is marked @revoked in known_hosts",
			s->config->host, s->config->port);
	if (verdict == LIBSSH2_KNOWNHOST_CHECK_MATCH)
		return 0;
	return refuse(s, k ? k->name : "a key of an unknown kind,", verdict, ret_error);
}
