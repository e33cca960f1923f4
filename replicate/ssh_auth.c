/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Logging in. The first of these that works: the key file of identity=; else the agent and the
 * usual files in ~/.ssh; then the password.
 */

#include "ssh_state.h"

#include "base/cleanup.h"
#include "base/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define PASSWORD_MAX 1024

/* What was tried, for the message. */
struct attempts {
	char text[512];
	bool rsa;
};

static void note(struct attempts *a, const char *what)
{
	size_t len = strlen(a->text);

	(void)snprintf(a->text + len, sizeof(a->text) - len, "%s%s", len ? ", " : "", what);
}

static bool looks_like_rsa(const char *file)
{
	_cleanup_free_ char *pub = NULL, *text = NULL;
	size_t len;

	if (asprintf(&pub, "%s.pub", file) < 0)
		return pub = NULL, false;
	return durable_read(AT_FDCWD, pub, 16384, &text, &len) == 0 &&
	       strncmp(text, "ssh-rsa", 7) == 0;
}

static int try_file(struct ssh *s, const char *file, struct attempts *a)
{
	int rc;

	note(a, file);
	SSH_RETRY(s, rc,
		libssh2_userauth_publickey_fromfile_ex(
			s->session, s->user, (unsigned)strlen(s->user), NULL, file, NULL));
	if (rc != 0)
		a->rsa |= looks_like_rsa(file);
	return rc == 0 ? 0 : ssh_error(s, rc, file);
}

static int try_agent_keys(struct ssh *s, LIBSSH2_AGENT *agent)
{
	struct libssh2_agent_publickey *key = NULL, *before = NULL;
	int r = -EACCES;

	if (libssh2_agent_connect(agent) != 0 || libssh2_agent_list_identities(agent) != 0)
		return -EACCES;
	while (r == -EACCES && libssh2_agent_get_identity(agent, &key, before) == 0) {
		int rc;

		SSH_RETRY(s, rc, libssh2_agent_userauth(agent, s->user, key));
		r = rc == 0 ? 0 : ssh_error(s, rc, "agent");
		before = key;
	}
	(void)libssh2_agent_disconnect(agent);
	return r;
}

static int try_agent(struct ssh *s, struct attempts *a)
{
	LIBSSH2_AGENT *agent;
	int r;

	if (!getenv("SSH_AUTH_SOCK"))
		return -EACCES;
	note(a, "the agent");
	agent = libssh2_agent_init(s->session);
	if (!agent)
		return -ENOMEM;
	r = try_agent_keys(s, agent);
	libssh2_agent_free(agent);
	return r;
}

static int try_usual_files(struct ssh *s, struct attempts *a)
{
	static const char *const names[] = {"id_ed25519", "id_ecdsa", "id_rsa"};
	int r = -EACCES;

	for (size_t i = 0; i < 3 && r == -EACCES; i++) {
		_cleanup_free_ char *file = NULL;

		if (asprintf(&file, "%s/.ssh/%s", s->home, names[i]) < 0)
			return file = NULL, -ENOMEM;
		if (access(file, R_OK) == 0)
			r = try_file(s, file, a);
	}
	return r;
}

/* ---- the password ---- */

static int read_password(struct ssh *s, char **ret, char **ret_error)
{
	const char *file = s->config->password_file;
	struct stat st;
	size_t len;
	int r;

	if (stat(file, &st) < 0)
		return say(ret_error, -errno, "password_file=%s: %s", file, strerror(errno));
	if (st.st_mode & 077)
		return say(ret_error, -EACCES,
			"password_file=%s can be read by others: chmod 600 it", file);
	r = durable_read(AT_FDCWD, file, PASSWORD_MAX, ret, &len);
	if (r < 0)
		return say(ret_error, r, "password_file=%s: %s", file, strerror(-r));
	(*ret)[strcspn(*ret, "\r\n")] = '\0';
	return 0;
}

static LIBSSH2_USERAUTH_KBDINT_RESPONSE_FUNC(answer_prompts)
{
	const struct ssh *s = *abstract;

	(void)name, (void)name_len, (void)instruction, (void)instruction_len, (void)prompts;
	for (int i = 0; i < num_prompts; i++) {
		responses[i].text = strdup(s->password);
		responses[i].length = responses[i].text ? (unsigned)strlen(responses[i].text) : 0;
	}
}

static int try_interactive(struct ssh *s, char *password)
{
	int rc;

	s->password = password;
	SSH_RETRY(s, rc,
		libssh2_userauth_keyboard_interactive_ex(
			s->session, s->user, (unsigned)strlen(s->user), answer_prompts));
	s->password = NULL;
	return rc == 0 ? 0 : ssh_error(s, rc, "keyboard-interactive");
}

static int try_password(struct ssh *s, struct attempts *a, char **ret_error)
{
	_cleanup_free_ char *password = NULL;
	int rc, r;

	if (!s->config->password_file)
		return -EACCES;
	note(a, "the password");
	r = read_password(s, &password, ret_error);
	if (r < 0)
		return r;
	SSH_RETRY(s, rc,
		libssh2_userauth_password_ex(s->session, s->user, (unsigned)strlen(s->user),
			password, (unsigned)strlen(password), NULL));
	r = rc == 0 ? 0 : ssh_error(s, rc, "password");
	if (r == -EACCES)
		r = try_interactive(s, password);
	explicit_bzero(password, strlen(password));
	return r;
}

/* ---- all ---- */

static int explain(struct ssh *s, const struct attempts *a, int error, char **ret_error)
{
	const char *rsa = "";

	if (*ret_error)
		return error;
	if (error != -EACCES)
		return say(ret_error, error, "%s port %u: login as %s: %s", s->config->host,
			s->config->port, s->user,
			error == -ETIMEDOUT ? "no answer" : strerror(-error));
#if LIBSSH2_VERSION_NUM < 0x010b00
	if (a->rsa)
		rsa = ". RSA keys cannot be used: this libssh2 (" LIBSSH2_VERSION
		      ") has no rsa-sha2; make an ed25519 key (ssh-keygen -t ed25519)";
#endif
	if (!a->text[0])
		return say(ret_error, error,
			"%s port %u: no key to log in as %s: give identity=FILE or password_file=FILE",
			s->config->host, s->config->port, s->user);
	return say(ret_error, error,
		"%s port %u refuses the login as %s (tried %s): is %s there?%s", s->config->host,
		s->config->port, s->user, a->text,
		strcmp(a->text, "the password") == 0
			? "it the right one, and are passwords accepted"
			: "the public key in its authorized_keys",
		rsa);
}

/* Starts the authentication service; what the server says it accepts is tried anyway. */
static void ask_methods(struct ssh *s)
{
	while (!libssh2_userauth_list(s->session, s->user, (unsigned)strlen(s->user)) &&
		!libssh2_userauth_authenticated(s->session) &&
		libssh2_session_last_errno(s->session) == LIBSSH2_ERROR_EAGAIN && ssh_wait(s) == 0)
		;
}

int ssh_login(struct ssh *s, char **ret_error)
{
	struct attempts a = {0};
	int r = -EACCES;

	ask_methods(s);
	if (s->config->identity) {
		if (access(s->config->identity, R_OK) < 0)
			return say(ret_error, -EACCES, "identity=%s: %s", s->config->identity,
				strerror(errno));
		r = try_file(s, s->config->identity, &a);
	} else {
		r = try_agent(s, &a);
		if (r == -EACCES)
			r = try_usual_files(s, &a);
	}
	if (r == -EACCES || (r == -EPROTO && s->config->password_file))
		r = try_password(s, &a, ret_error);
	return r == 0 ? 0 : explain(s, &a, r, ret_error);
}
