/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "fs/options.h"
#include "fs/peer_url.h"
#include "replicate/base/cleanup.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

/* Parses `tandemfs /b /m -o LIST`. */
static int parse(const char *list, struct options *ret, char **ret_error)
{
	char *const argv[] = {"tandemfs", "/b", "/m", "-o", (char *)list, NULL};

	*ret_error = NULL;
	return options_parse(5, argv, ret, ret_error);
}

/* The list is refused, and the message holds @word. */
static void refused(const char *list, const char *word)
{
	_cleanup_options_ struct options o;
	_cleanup_free_ char *error = NULL;

	if (parse(list, &o, &error) != -EINVAL)
		fail_msg("accepted: %s", list);
	assert_non_null(error);
	if (!strstr(error, word))
		fail_msg("%s: \"%s\" does not say \"%s\"", list, error, word);
	assert_null(strchr(error, '\n'));
	assert_null(o.backing);
}

static void accepted(const char *list, struct options *o)
{
	_cleanup_free_ char *error = NULL;

	if (parse(list, o, &error) != 0)
		fail_msg("refused: %s: %s", list, error);
	assert_null(error);
}

static void test_defaults(void **state)
{
	_cleanup_options_ struct options o;

	(void)state;
	accepted("", &o);
	assert_string_equal(o.backing, "/b");
	assert_string_equal(o.mountpoint, "/m");
	assert_int_equal(o.n_peers, 0);
	assert_int_equal(o.mode, MODE_ASYNC);
	assert_int_equal(o.on_peer_down, PEER_DOWN_CONTINUE);
	assert_int_equal(o.order, ORDER_RELAXED);
	assert_int_equal(o.streams, 2);
	assert_int_equal(o.vault_max, 1 << 30);
	assert_int_equal(o.loglevel, LOG_LEVEL_NOTICE);
	assert_string_equal(o.verify, "sha256");
	assert_null(o.node);
	assert_null(o.identity);
	assert_null(o.state);
	assert_null(o.account);
	assert_null(o.kernel);
	assert_false(o.foreground);
}

static void test_each_option(void **state)
{
	_cleanup_options_ struct options o;

	(void)state;
	accepted("mode=sync-write,on_peer_down=fail,order=strict,node=web-1.example,identity=/i,"
		 "password_file=/p,known_hosts=/k,account=tandem,state=/s,streams=16,verify=none,"
		 "loglevel=debug,peer=sftp://a/x,peer=sftp://b/x",
		&o);
	assert_int_equal(o.mode, MODE_SYNC_WRITE);
	assert_int_equal(o.on_peer_down, PEER_DOWN_FAIL);
	assert_int_equal(o.order, ORDER_STRICT);
	assert_string_equal(o.node, "web-1.example");
	assert_string_equal(o.identity, "/i");
	assert_string_equal(o.password_file, "/p");
	assert_string_equal(o.known_hosts, "/k");
	assert_string_equal(o.account, "tandem");
	assert_string_equal(o.state, "/s");
	assert_int_equal(o.streams, 16);
	assert_string_equal(o.verify, "none");
	assert_int_equal(o.loglevel, LOG_LEVEL_DEBUG);
	assert_int_equal(o.n_peers, 2);
	assert_string_equal(o.peers[1].host, "b");
}

static void test_later_overrides(void **state)
{
	_cleanup_options_ struct options o;

	(void)state;
	accepted("mode=sync,node=a,mode=async,node=b,streams=3,streams=4,verify=md5,verify=sha512",
		&o);
	assert_int_equal(o.mode, MODE_ASYNC);
	assert_string_equal(o.node, "b");
	assert_int_equal(o.streams, 4);
	assert_string_equal(o.verify, "sha512");
}

static uint64_t vault_max(const char *list)
{
	_cleanup_options_ struct options o;

	accepted(list, &o);
	return o.vault_max;
}

static void test_sizes(void **state)
{
	(void)state;
	assert_true(vault_max("vault_max=1") == 1);
	assert_true(vault_max("vault_max=512K") == 512 << 10);
	assert_true(vault_max("vault_max=3m") == 3 << 20);
	assert_true(vault_max("vault_max=10G") == 10ull << 30);
	assert_true(vault_max("vault_max=8388607T") == 8388607ull << 40);
	assert_true(vault_max("vault_max=9223372036854775807") == INT64_MAX);
}

static void test_fstab_options(void **state)
{
	_cleanup_options_ struct options o;

	(void)state;
	accepted("rw,defaults,auto,noauto,nofail,_netdev,user,users,x-systemd.automount,"
		 "x-systemd.device-timeout=10,X-mount.mkdir,comment=web root,relatime,user=bob,"
		 "default_permissions,allow_other,noatime,nosuid,nodev,noexec,,ro,sync,"
		 "context=\"system_u:object_r:http_t:s0:c1,c2\",",
		&o);
	assert_string_equal(o.kernel, "rw,noatime,nosuid,nodev,noexec,ro,sync,"
				      "context=\"system_u:object_r:http_t:s0:c1,c2\"");
}

static void test_commas_in_values(void **state)
{
	_cleanup_options_ struct options o;

	(void)state;
	accepted("identity=/a\\,b,state=/c\\\\d\\e,peer=sftp://h/x\\,y,known_hosts=\"/q,r\"", &o);
	assert_string_equal(o.identity, "/a,b");
	assert_string_equal(o.state, "/c\\d\\e");
	assert_string_equal(o.peers[0].path, "/x,y");
	assert_string_equal(o.known_hosts, "/q,r");
}

static void test_open_quote_is_a_character(void **state)
{
	_cleanup_options_ struct options o;

	(void)state;
	accepted("identity=/a\"b,node=n", &o);
	assert_string_equal(o.identity, "/a\"b");
	assert_string_equal(o.node, "n");
}

static void test_malformed_values(void **state)
{
	(void)state;
	refused("mode=fast", "async|sync|sync-write");
	refused("mode=", "needs a value");
	refused("mode", "needs a value");
	refused("mode=asyn", "async");
	refused("mode=async|sync", "async");
	refused("on_peer_down=die", "continue|block|fail");
	refused("order=none", "relaxed|strict");
	refused("loglevel=9", "error|warning");
	refused("vault_max=0", "no size");
	refused("vault_max=", "needs a value");
	refused("vault_max=-1", "no size");
	refused("vault_max=G", "no size");
	refused("vault_max=1GB", "no size");
	refused("vault_max=1X", "no size");
	refused("vault_max=9223372036854775808", "no size");
	refused("vault_max=8388608T", "no size");
	refused("streams=0", "1 to 16");
	refused("streams=17", "1 to 16");
	refused("streams=-1", "1 to 16");
	refused("streams=+1", "1 to 16");
	refused("streams= 1", "1 to 16");
	refused("streams=2x", "1 to 16");
	refused("streams=99999999999999999999", "1 to 16");
	refused("verify=crc32", "crc32");
	refused("node=a b", "node");
	refused("node=-x", "node");
	refused("node=a/b", "node");
	refused("node=0123456789012345678901234567890123456789012345678901234567890123456789",
		"64");
	refused("identity=key", "absolute");
	refused("state=~/x", "absolute");
	refused("account=a:b", "user name");
	refused("=x", "no name");
}

static void test_unknown_options(void **state)
{
	(void)state;
	refused("peers=sftp://h/x", "unknown option \"peers\"");
	refused("Mode=sync", "unknown option \"Mode\"");
	refused("rw,foo,ro", "\"foo\"");
	refused("remount,ro", "running mount");
	refused("fsname=x", "fsname");
}

static void test_sloppy(void **state)
{
	char *const argv[] = {"tandemfs", "/b", "/m", "-o", "foo,mode=sync", "-s", NULL};
	_cleanup_options_ struct options o;
	_cleanup_free_ char *error = NULL;

	(void)state;
	assert_int_equal(options_parse(6, argv, &o, &error), 0);
	assert_int_equal(o.mode, MODE_SYNC);
}

static void test_peers(void **state)
{
	_cleanup_options_ struct options o;

	(void)state;
	accepted("peer=sftp://web2/srv/www,peer=sftp://u%40x@[fe80::1%25eth0]:2222//a//b%20c/,"
		 "peer=sftp://10.0.0.1/",
		&o);
	assert_null(o.peers[0].user);
	assert_string_equal(o.peers[0].host, "web2");
	assert_int_equal(o.peers[0].port, 22);
	assert_string_equal(o.peers[0].path, "/srv/www");
	assert_string_equal(o.peers[0].url, "sftp://web2/srv/www");
	assert_string_equal(o.peers[1].user, "u@x");
	assert_string_equal(o.peers[1].host, "fe80::1%eth0");
	assert_int_equal(o.peers[1].port, 2222);
	assert_string_equal(o.peers[1].path, "/a/b c");
	assert_string_equal(o.peers[2].path, "/");
}

static void test_bad_peers(void **state)
{
	static const struct {
		const char *url, *word;
	} bad[] = {
		{"web2:/srv", "sftp://"},
		{"ssh://web2/srv", "sftp://"},
		{"sftp:///srv", "host is missing"},
		{"sftp://", "host is missing"},
		{"sftp://web2", "path is missing"},
		{"sftp://web2:22", "path is missing"},
		{"sftp://u:secret@web2/srv", "password_file"},
		{"sftp://@web2/srv", "user name"},
		{"sftp://web2:/srv", "65535"},
		{"sftp://web2:0/srv", "65535"},
		{"sftp://web2:65536/srv", "65535"},
		{"sftp://web2:123456/srv", "65535"},
		{"sftp://web2:ssh/srv", "no number"},
		{"sftp://fe80::1/srv", "brackets"},
		{"sftp://[fe80::1/srv", "closing bracket"},
		{"sftp://[web2]/srv", "IPv6"},
		{"sftp://[::1]x/srv", "PORT"},
		{"sftp://we b/srv", "host name"},
		{"sftp://-web/srv", "host name"},
		{"sftp://web2/srv/../etc", ".."},
		{"sftp://web2/./srv", ".."},
		{"sftp://web2/%2e%2e/srv", ".."},
		{"sftp://web2/a%2", "%XX"},
		{"sftp://web2/a%zz", "%XX"},
		{"sftp://web2/a%00b", "control"},
		{"sftp://web2/a%0ab", "control"},
		{"sftp://%ff%@web2/a", "%XX"},
		{"sftp://web2/a?b", "%3F"},
		{"sftp://web2/a#b", "%23"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		char list[256];

		(void)snprintf(list, sizeof(list), "peer=%s", bad[i].url);
		refused(list, bad[i].word);
	}
	refused("peer=sftp://a/x,peer=sftp://A:22/x/", "twice");
}

static void test_password_is_not_repeated(void **state)
{
	_cleanup_options_ struct options o;
	_cleanup_free_ char *error = NULL;

	(void)state;
	assert_int_equal(parse("peer=sftp://u:secret@web2/srv", &o, &error), -EINVAL);
	assert_null(strstr(error, "secret"));
}

static void test_too_many_peers(void **state)
{
	char list[OPTIONS_PEERS_MAX * 32 + 64] = "rw";

	(void)state;
	for (int i = 0; i <= OPTIONS_PEERS_MAX; i++)
		(void)snprintf(list + strlen(list), 32, ",peer=sftp://h%d/x", i);
	refused(list, "16");
}

static int parse_words(struct options *ret, char **ret_error, char *const *argv)
{
	int argc = 0;

	while (argv[argc])
		argc++;
	*ret_error = NULL;
	return options_parse(argc, argv, ret, ret_error);
}

static void test_command_line(void **state)
{
	static char *const bad[][6] = {
		{"tandemfs", NULL},
		{"tandemfs", "/b", NULL},
		{"tandemfs", "/b", "/m", "/x", NULL},
		{"tandemfs", "", "/m", NULL},
		{"tandemfs", "/b", "", NULL},
		{"tandemfs", "/b", "/m", "-o", NULL},
		{"tandemfs", "/b", "/m", "-q", NULL},
		{"tandemfs", "/b", "/m", "--quick", NULL},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		_cleanup_options_ struct options o;
		_cleanup_free_ char *error = NULL;

		assert_int_equal(parse_words(&o, &error, bad[i]), -EINVAL);
		assert_non_null(error);
	}
}

static void test_flags(void **state)
{
	char *const argv[] = {
		"tandemfs", "-f", "/b", "-omode=sync", "/m", "-d", "-o", "node=x", NULL};
	char *const help[] = {"tandemfs", "-h", NULL};
	char *const man[] = {"tandemfs", "--help=man", NULL};
	char *const version[] = {"tandemfs", "-V", NULL};
	_cleanup_options_ struct options o, h, m, v;
	_cleanup_free_ char *error = NULL;

	(void)state;
	assert_int_equal(parse_words(&o, &error, argv), 0);
	assert_true(o.foreground);
	assert_true(o.debug);
	assert_int_equal(o.loglevel, LOG_LEVEL_DEBUG);
	assert_int_equal(o.mode, MODE_SYNC);
	assert_string_equal(o.node, "x");
	assert_int_equal(parse_words(&h, &error, help), 0);
	assert_int_equal(h.action, ACTION_HELP);
	assert_int_equal(parse_words(&m, &error, man), 0);
	assert_int_equal(m.action, ACTION_MAN);
	assert_int_equal(parse_words(&v, &error, version), 0);
	assert_int_equal(v.action, ACTION_VERSION);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_each_option),
		cmocka_unit_test(test_later_overrides),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_fstab_options),
		cmocka_unit_test(test_commas_in_values),
		cmocka_unit_test(test_open_quote_is_a_character),
		cmocka_unit_test(test_malformed_values),
		cmocka_unit_test(test_unknown_options),
		cmocka_unit_test(test_sloppy),
		cmocka_unit_test(test_peers),
		cmocka_unit_test(test_bad_peers),
		cmocka_unit_test(test_password_is_not_repeated),
		cmocka_unit_test(test_too_many_peers),
		cmocka_unit_test(test_command_line),
		cmocka_unit_test(test_flags),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
