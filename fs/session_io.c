/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "session_io.h"

/*
 * DESIGN: libfuse makes the answer to FUSE_INIT from the flags that it knows. It lets us do the
 * reading and writing of its device, so the flag that is missing is put in on the way: the first
 * request says what the kernel has, the answer to that request asks for it. A request to make a
 * file without a name, which libfuse would refuse, has the form of one to make a file: it is handed
 * on as that, with the kernel's name for it, which no other file can have. Everything else passes
 * as it is.
 */

#ifdef FUSE_CAP_HANDLE_KILLPRIV_V2

int session_io_install(struct mount *m)
{
	(void)m;
	return 0;
}

#else

#include <linux/fuse.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* FUSE_DIRECT_IO_ALLOW_MMAP (Linux 6.6), as it stands in flags2; FUSE_TMPFILE (Linux 6.2). */
#define INIT2_DIRECT_IO_ALLOW_MMAP (1u << 4)
#define OPCODE_TMPFILE 51

/* What the kernel offers, if this is its INIT. Older kernels send a shorter one. */
static void look_at(struct mount *m, const char *buf, size_t len)
{
	struct fuse_in_header head;
	struct fuse_init_in init = {0};

	if (len <= sizeof(head))
		return;
	memcpy(&head, buf, sizeof(head));
	if (head.opcode != FUSE_INIT)
		return;
	len -= sizeof(head);
	memcpy(&init, buf + sizeof(head), len < sizeof(init) ? len : sizeof(init));
	m->init_unique = head.unique;
	m->init_killpriv = init.flags & FUSE_HANDLE_KILLPRIV_V2;
	m->direct = (init.flags & FUSE_INIT_EXT) && (init.flags2 & INIT2_DIRECT_IO_ALLOW_MMAP);
}

/* Its struct fuse_create_in is followed by the name "/". */
static void pass_tmpfile(char *buf, size_t len)
{
	const uint32_t create = FUSE_CREATE;
	char *opcode = buf + offsetof(struct fuse_in_header, opcode);
	uint32_t was;

	if (len < sizeof(struct fuse_in_header))
		return;
	memcpy(&was, opcode, sizeof(was));
	if (was == OPCODE_TMPFILE)
		memcpy(opcode, &create, sizeof(create));
}

static ssize_t io_read(int fd, void *buf, size_t len, void *userdata)
{
	struct mount *m = userdata;
	ssize_t n = read(fd, buf, len);

	if (n > 0 && !m->init_done)
		look_at(m, buf, (size_t)n);
	else if (n > 0)
		pass_tmpfile(buf, (size_t)n);
	return n;
}

static bool is_answer_to_init(const struct mount *m, const struct iovec *iov, int count)
{
	struct fuse_out_header head;

	if (count != 2 || iov[0].iov_len != sizeof(head) ||
		iov[1].iov_len < offsetof(struct fuse_init_out, flags) + sizeof(uint32_t))
		return false;
	memcpy(&head, iov[0].iov_base, sizeof(head));
	return head.error == 0 && head.unique == m->init_unique;
}

static ssize_t io_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	struct mount *m = userdata;

	if (!m->init_done && is_answer_to_init(m, iov, count)) {
		char *flags = (char *)iov[1].iov_base + offsetof(struct fuse_init_out, flags);
		uint32_t f;

		m->killpriv = m->init_killpriv;
		m->init_done = true;
		memcpy(&f, flags, sizeof(f));
		f |= m->init_killpriv ? FUSE_HANDLE_KILLPRIV_V2 : 0;
		memcpy(flags, &f, sizeof(f));
	}
	return writev(fd, iov, count);
}

int session_io_install(struct mount *m)
{
	const struct fuse_custom_io io = {.read = io_read, .writev = io_writev};

	return fuse_session_custom_io(m->session, &io, fuse_session_fd(m->session));
}

#endif
