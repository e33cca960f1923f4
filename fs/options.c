/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The command line of a mount.
 *
 * -o takes a list as mount(8) does: NAME or NAME=VALUE between commas. A comma within a value is
 * written as "\," and a backslash as "\\"; a value in double quotes (as SELinux contexts
 * are written) may hold commas too. Three sorts of names are known:
 *
 *   - those of options.def, each with a parser here; a later one overrides an earlier one,
 *     but for peer, of which each one counts;
 *   - those that mount(8), systemd and fstab keep for themselves: accepted and dropped;
 *   - flags of the kernel: handed on to libfuse as they are.
 *
 * Everything else is refused by name, unless -s asks for leniency.
 */

#include "options.h"
#include "replicate/base/say.h"

#include "peer_url.h"
#include "replicate/base/cleanup.h"

#include <ctype.h>
#include <getopt.h>
#include <limits.h>
#include <string.h>

typedef int (*option_parser)(struct options *o, const char *value, char **ret_error);

static int replace_string(char **field, const char *value)
{
	char *copy = strdup(value);

	if (!copy)
		return -ENOMEM;
	free(*field);
	*field = copy;
	return 0;
}

/* The place of @value among the words of @choices, which are separated by '|'. */
static int choose(const char *value, const char *choices, char **ret_error)
{
	const char *word = choices;

	for (int i = 0;; i++) {
		size_t len = strcspn(word, "|");

		if (strlen(value) == len && strncmp(value, word, len) == 0)
			return i;
		if (!word[len])
			return say(ret_error, -EINVAL, "\"%s\" is none of %s", value, choices);
		word += len + 1;
	}
}

/* ---- the parsers of options.def ---- */

static int set_peer(struct options *o, const char *value, char **ret_error)
{
	_cleanup_free_ char *reason = NULL;
	const char *at = strrchr(value, '@');
	struct replica_peer_config peer, *peers;
	int r = peer_url_parse(value, &peer, &reason);

	/* What stands before @ may be a password. */
	if (r == -EINVAL)
		return say(ret_error, -EINVAL, "\"%s%s\": %s", at ? "..." : "", at ? at : value,
			reason);
	if (r < 0)
		return r;
	for (size_t i = 0; i < o->n_peers; i++)
		if (peer_url_equal(&o->peers[i], &peer))
			r = say(ret_error, -EINVAL, "\"%s\" is given twice", value);
	if (r == 0 && o->n_peers == OPTIONS_PEERS_MAX)
		r = say(ret_error, -EINVAL, "there can be %d peers at most", OPTIONS_PEERS_MAX);
	if (r == 0) {
		peers = reallocarray(o->peers, o->n_peers + 1, sizeof(*peers));
		if (peers) {
			o->peers = peers;
			peers[o->n_peers++] = peer;
			return 0;
		}
		r = -ENOMEM;
	}
	peer_url_clear(&peer);
	return r;
}

static int set_mode(struct options *o, const char *value, char **ret_error)
{
	int i = choose(value, "async|sync|sync-write", ret_error);

	if (i >= 0)
		o->mode = (enum replica_mode[]){MODE_ASYNC, MODE_SYNC, MODE_SYNC_WRITE}[i];
	return i < 0 ? i : 0;
}

static int set_peer_down(struct options *o, const char *value, char **ret_error)
{
	static const enum replica_peer_down values[] = {
		PEER_DOWN_CONTINUE, PEER_DOWN_BLOCK, PEER_DOWN_FAIL};
	int i = choose(value, "continue|block|fail", ret_error);

	if (i >= 0)
		o->on_peer_down = values[i];
	return i < 0 ? i : 0;
}

static int set_order(struct options *o, const char *value, char **ret_error)
{
	int i = choose(value, "relaxed|strict", ret_error);

	if (i >= 0)
		o->order = i == 0 ? ORDER_RELAXED : ORDER_STRICT;
	return i < 0 ? i : 0;
}

static int set_loglevel(struct options *o, const char *value, char **ret_error)
{
	if (log_level_parse(value, &o->loglevel) < 0)
		return say(ret_error, -EINVAL, "\"%s\" is none of error|warning|notice|info|debug",
			value);
	return 0;
}

static int set_node(struct options *o, const char *value, char **ret_error)
{
	size_t len = strlen(value);

	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)value[i]) && !strchr("._-", value[i]))
			return say(ret_error, -EINVAL,
				"\"%s\" has other characters than letters, digits, '.', '-' and '_'",
				value);
	if (len == 0 || len > OPTIONS_NODE_MAX || *value == '.' || *value == '-')
		return say(ret_error, -EINVAL,
			"\"%s\" is no node name: it has 1 to %d characters and starts with a "
			"letter, a digit or '_'",
			value, OPTIONS_NODE_MAX);
	return replace_string(&o->node, value);
}

/* A mount in fstab has no working directory that anybody could rely on. */
static int set_path(char **field, const char *value, char **ret_error)
{
	if (*value != '/')
		return say(ret_error, -EINVAL,
			"\"%s\" is not an absolute path: it must start with /", value);
	if (strlen(value) >= PATH_MAX)
		return say(ret_error, -EINVAL, "the path is longer than %d bytes", PATH_MAX - 1);
	return replace_string(field, value);
}

static int set_identity(struct options *o, const char *value, char **ret_error)
{
	return set_path(&o->identity, value, ret_error);
}

static int set_password_file(struct options *o, const char *value, char **ret_error)
{
	return set_path(&o->password_file, value, ret_error);
}

static int set_known_hosts(struct options *o, const char *value, char **ret_error)
{
	return set_path(&o->known_hosts, value, ret_error);
}

static int set_state(struct options *o, const char *value, char **ret_error)
{
	return set_path(&o->state, value, ret_error);
}

static int set_account(struct options *o, const char *value, char **ret_error)
{
	if (strlen(value) > OPTIONS_NODE_MAX || strpbrk(value, ":/ \t\n"))
		return say(ret_error, -EINVAL, "\"%s\" is no user name", value);
	return replace_string(&o->account, value);
}

static int set_streams(struct options *o, const char *value, char **ret_error)
{
	unsigned long n = 0;
	char *end = NULL;

	errno = 0;
	if (isdigit((unsigned char)*value))
		n = strtoul(value, &end, 10);
	if (!end || *end || errno || n < 1 || n > OPTIONS_STREAMS_MAX)
		return say(ret_error, -EINVAL, "\"%s\" is not a number from 1 to %d", value,
			OPTIONS_STREAMS_MAX);
	o->streams = (unsigned)n;
	return 0;
}

/* Bytes, or with a unit after the number. */
static int parse_size(const char *value, uint64_t *ret, char **ret_error)
{
	static const char units[] = "KMGT";
	unsigned long long n = 0;
	const char *unit = NULL;
	char *end = NULL;
	unsigned shift = 0;

	errno = 0;
	if (isdigit((unsigned char)*value))
		n = strtoull(value, &end, 10);
	if (end && *end && !end[1] && (unit = strchr(units, toupper((unsigned char)*end)))) {
		shift = 10 * (unsigned)(unit - units + 1);
		end++;
	}
	if (!end || *end || errno || n < 1 || n > (unsigned long long)INT64_MAX >> shift)
		return say(ret_error, -EINVAL,
			"\"%s\" is no size: a number of bytes, or with K, M, G or T after it",
			value);
	*ret = n << shift;
	return 0;
}

static int set_vault_max(struct options *o, const char *value, char **ret_error)
{
	return parse_size(value, &o->vault_max, ret_error);
}

static int set_journal_max(struct options *o, const char *value, char **ret_error)
{
	int r = parse_size(value, &o->journal_max, ret_error);

	if (r == 0 && o->journal_max < OPTIONS_JOURNAL_MIN)
		return say(ret_error, -EINVAL, "\"%s\" is less than 1M", value);
	return r;
}

static int set_seed(struct options *o, const char *value, char **ret_error)
{
	(void)value;
	(void)ret_error;
	o->seed = true;
	return 0;
}

static int set_verify(struct options *o, const char *value, char **ret_error)
{
	if (!replica_verify_known(value))
		return say(ret_error, -EINVAL,
			"OpenSSL here knows no digest \"%s\": `openssl list -digest-algorithms` "
			"names them; or none",
			value);
	return replace_string(&o->verify, value);
}

static const struct option_entry {
	const char *name, *argument, *value, *note;
	option_parser parser;
	const char *help;
} option_table[] = {
#define OPTION(name, argument, value, note, parser, help)                                          \
	{name, argument, value, note, parser, help},
#include "options.def"
#undef OPTION
};

#define N_OPTIONS (sizeof(option_table) / sizeof(*option_table))

/* ---- names that others gave a meaning ---- */

enum generic_use {
	GENERIC_DROP = 1, /* mount(8), systemd or the default of every mount */
	GENERIC_KERNEL,   /* for libfuse */
	GENERIC_REFUSE,   /* known, and cannot be */
};

static const struct generic_entry {
	const char *name;
	enum generic_use use;
} generic_table[] = {
	{"defaults", GENERIC_DROP},
	{"rw", GENERIC_KERNEL},
	{"ro", GENERIC_KERNEL},
	{"suid", GENERIC_KERNEL},
	{"nosuid", GENERIC_KERNEL},
	{"dev", GENERIC_KERNEL},
	{"nodev", GENERIC_KERNEL},
	{"exec", GENERIC_KERNEL},
	{"noexec", GENERIC_KERNEL},
	{"sync", GENERIC_KERNEL},
	{"dirsync", GENERIC_KERNEL},
	{"async", GENERIC_DROP},
	{"noatime", GENERIC_KERNEL},
	{"atime", GENERIC_DROP},
	{"nodiratime", GENERIC_KERNEL},
	{"diratime", GENERIC_DROP},
	{"relatime", GENERIC_DROP},
	{"norelatime", GENERIC_DROP},
	{"strictatime", GENERIC_DROP},
	{"nostrictatime", GENERIC_DROP},
	{"lazytime", GENERIC_DROP},
	{"nolazytime", GENERIC_DROP},
	{"silent", GENERIC_DROP},
	{"loud", GENERIC_DROP},
	{"auto", GENERIC_DROP},
	{"noauto", GENERIC_DROP},
	{"user", GENERIC_DROP},
	{"nouser", GENERIC_DROP},
	{"users", GENERIC_DROP},
	{"owner", GENERIC_DROP},
	{"group", GENERIC_DROP},
	{"nofail", GENERIC_DROP},
	{"_netdev", GENERIC_DROP},
	{"comment", GENERIC_DROP},
	{"uhelper", GENERIC_DROP},
	{"helper", GENERIC_DROP},
	/* Both are always on. */
	{"allow_other", GENERIC_DROP},
	{"default_permissions", GENERIC_DROP},
	{"context", GENERIC_KERNEL},
	{"fscontext", GENERIC_KERNEL},
	{"defcontext", GENERIC_KERNEL},
	{"rootcontext", GENERIC_KERNEL},
	{"remount", GENERIC_REFUSE},
};

static enum generic_use generic_find(const char *name)
{
	if (strncmp(name, "x-", 2) == 0 || strncmp(name, "X-", 2) == 0)
		return GENERIC_DROP;
	for (size_t i = 0; i < sizeof(generic_table) / sizeof(*generic_table); i++)
		if (strcmp(generic_table[i].name, name) == 0)
			return generic_table[i].use;
	return 0;
}

/* Appends @raw, as it was written, to the list for libfuse. */
static int add_kernel(struct options *o, const char *raw)
{
	char *list = NULL;

	if (asprintf(&list, "%s%s%s", o->kernel ? o->kernel : "", o->kernel ? "," : "", raw) < 0)
		return -ENOMEM;
	free(o->kernel);
	o->kernel = list;
	return 0;
}

/* ---- the list after -o ---- */

static int set_known(
	struct options *o, const struct option_entry *e, const char *value, char **ret_error)
{
	_cleanup_free_ char *reason = NULL;
	int r;

	if (!e->argument && value)
		return say(ret_error, -EINVAL, "option %s takes no value", e->name);
	if (e->argument && (!value || !*value))
		return say(ret_error, -EINVAL, "option %s needs a value: %s=%s", e->name, e->name,
			e->argument);
	r = e->parser(o, value, &reason);
	if (r == -EINVAL)
		return say(ret_error, -EINVAL, "option %s: %s", e->name, reason);
	return r;
}

static int set_option(
	struct options *o, const char *name, const char *value, const char *raw, char **ret_error)
{
	for (size_t i = 0; i < N_OPTIONS; i++)
		if (strcmp(option_table[i].name, name) == 0)
			return set_known(o, &option_table[i], value, ret_error);
	switch (generic_find(name)) {
	case GENERIC_DROP:
		return 0;
	case GENERIC_KERNEL:
		return add_kernel(o, raw);
	case GENERIC_REFUSE:
		return say(ret_error, -EINVAL,
			"option %s: the options of a running mount cannot be changed; unmount it "
			"and mount it anew",
			name);
	}
	if (o->sloppy)
		return 0;
	return say(ret_error, -EINVAL,
		"unknown option \"%s\"; `tandemfs --help` lists those there are", name);
}

/* The length of the first option of @list, up to the comma or the end. */
static size_t option_length(const char *list)
{
	bool quoted = false;
	size_t i = 0;

	for (; list[i]; i++) {
		if (list[i] == '\\' && list[i + 1])
			i++;
		else if (list[i] == '"')
			quoted = !quoted;
		else if (list[i] == ',' && !quoted)
			break;
	}
	/* A quote that never ends is a character like any other. */
	return quoted && !list[i] ? strcspn(list, ",") : i;
}

/* Undoes the escapes and the quotes around a value, in place. */
static void unescape(char *text)
{
	size_t len = strlen(text);
	char *out = text;

	if (len >= 2 && text[0] == '"' && text[len - 1] == '"') {
		memmove(text, text + 1, len - 2);
		text[len - 2] = '\0';
	}
	for (const char *in = text; *in; in++) {
		if (*in == '\\' && (in[1] == ',' || in[1] == '\\'))
			in++;
		*out++ = *in;
	}
	*out = '\0';
}

static int parse_list(struct options *o, const char *list, char **ret_error)
{
	int r = 0;

	while (r == 0 && *list) {
		size_t len = option_length(list);
		_cleanup_free_ char *raw = strndup(list, len);
		_cleanup_free_ char *name = strndup(list, len);
		char *value;

		if (!raw || !name)
			return -ENOMEM;
		value = strchr(name, '=');
		if (value) {
			*value++ = '\0';
			unescape(value);
		}
		if (*name)
			r = set_option(o, name, value, raw, ret_error);
		else if (value)
			r = say(ret_error, -EINVAL, "option \"%s\" has no name before the =", raw);
		list += len + (list[len] == ',');
	}
	return r;
}

static int set_defaults(struct options *o, char **ret_error)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < N_OPTIONS; i++)
		if (option_table[i].value)
			r = set_known(o, &option_table[i], option_table[i].value, ret_error);
	return r;
}

/* ---- the command line ---- */

static const struct option long_options[] = {
	{"help", optional_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'V'},
	{0},
};

/* One flag; *list gains what follows -o. */
static int parse_flag(struct options *o, int flag, char *const *argv, char **list, char **ret_error)
{
	char *longer = NULL;

	switch (flag) {
	case 'o':
		if (asprintf(&longer, "%s,%s", *list ? *list : "", optarg) < 0)
			return -ENOMEM;
		free(*list);
		*list = longer;
		return 0;
	case 'f':
		o->foreground = true;
		return 0;
	case 'd':
		o->debug = o->foreground = true;
		return 0;
	case 's':
		o->sloppy = true;
		return 0;
	case 'h':
		o->action = optarg && strcmp(optarg, "man") == 0 ? ACTION_MAN : ACTION_HELP;
		return 0;
	case 'V':
		o->action = ACTION_VERSION;
		return 0;
	case ':':
		return say(ret_error, -EINVAL, "-o needs a list of options after it");
	}
	if (optopt)
		return say(ret_error, -EINVAL,
			"unknown flag -%c; `tandemfs --help` lists those there are",
			isprint(optopt) ? optopt : '?');
	return say(ret_error, -EINVAL, "unknown flag %s; `tandemfs --help` lists those there are",
		argv[optind - 1]);
}

static int parse_operands(struct options *o, int n, char *const *operands, char **ret_error)
{
	if (n < 2)
		return say(ret_error, -EINVAL,
			"%s is missing: tandemfs BACKING MOUNTPOINT -o OPTIONS, or tandemfs --help",
			n == 0 ? "the backing directory" : "the mount point");
	if (n > 2)
		return say(ret_error, -EINVAL,
			"\"%s\" is one argument too many: tandemfs BACKING MOUNTPOINT -o OPTIONS",
			operands[2]);
	if (!*operands[0] || !*operands[1])
		return say(ret_error, -EINVAL, "%s must not be empty",
			*operands[0] ? "the mount point" : "the backing directory");
	if (replace_string(&o->backing, operands[0]) < 0)
		return -ENOMEM;
	return replace_string(&o->mountpoint, operands[1]);
}

static int parse_command_line(struct options *o, int argc, char *const *argv, char **ret_error)
{
	_cleanup_free_ char *list = NULL;
	int flag, r;

	opterr = 0;
	optind = 0; /* makes glibc start anew */
	while ((flag = getopt_long(argc, argv, ":o:fdshV", long_options, NULL)) != -1) {
		r = parse_flag(o, flag, argv, &list, ret_error);
		if (r < 0)
			return r;
	}
	if (o->action != ACTION_MOUNT)
		return 0;
	/* The flag -s may come after the list that it is about. */
	r = set_defaults(o, ret_error);
	if (r == 0 && list)
		r = parse_list(o, list, ret_error);
	if (r == 0)
		r = parse_operands(o, argc - optind, argv + optind, ret_error);
	if (r == 0 && o->debug)
		o->loglevel = LOG_LEVEL_DEBUG;
	return r;
}

int options_parse(int argc, char *const *argv, struct options *ret, char **ret_error)
{
	struct options o = {0};
	int r = parse_command_line(&o, argc, argv, ret_error);

	if (r < 0) {
		options_clear(&o);
		*ret = o;
		return r;
	}
	*ret = o;
	return 0;
}

void options_clear(struct options *o)
{
	for (size_t i = 0; i < o->n_peers; i++)
		peer_url_clear(&o->peers[i]);
	free(o->peers);
	free(o->backing);
	free(o->mountpoint);
	free(o->node);
	free(o->identity);
	free(o->password_file);
	free(o->known_hosts);
	free(o->account);
	free(o->state);
	free(o->verify);
	free(o->kernel);
	*o = (struct options){0};
}

/* ---- help ---- */

/* Prints @text in lines of at most 79 columns, each after @indent spaces. */
static void print_wrapped(FILE *f, const char *text, int indent)
{
	int column = 79;

	while (*text) {
		int len = (int)strcspn(text, " ");

		if (column + 1 + len > 79) {
			fprintf(f, "\n%*s", indent, "");
			column = indent;
		} else {
			fputc(' ', f);
			column++;
		}
		fprintf(f, "%.*s", len, text);
		column += len;
		text += len + (text[len] == ' ');
	}
}

void options_help(FILE *f)
{
	for (size_t i = 0; i < N_OPTIONS; i++) {
		const struct option_entry *e = &option_table[i];

		fprintf(f, "  %s%s%s", e->name, e->argument ? "=" : "",
			e->argument ? e->argument : "");
		print_wrapped(f, e->help, 6);
		fprintf(f, "\n      [%s]\n", e->value ? e->value : e->note);
	}
}

void options_man(FILE *f)
{
	for (size_t i = 0; i < N_OPTIONS; i++) {
		const struct option_entry *e = &option_table[i];

		fprintf(f, ".It Cm %s", e->name);
		if (e->argument)
			fprintf(f, " Ns = Ns Ar %s", e->argument);
		fprintf(f, "\n%s\nDefault: %s.\n", e->help, e->value ? e->value : e->note);
	}
}
