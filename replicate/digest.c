/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "digest.h"

#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/*
 * DESIGN: a digest is an EVP_MD fetched by name and a context that is set up anew after each
 * final. OpenSSL's errors become errno's here, and its per-thread error queue is emptied, so that
 * nothing of it reaches other modules. Names without a fixed length of 1 to OP_DIGEST_MAX bytes
 * (the null digest, XOFs in new releases) are refused like unknown ones.
 */

struct digest {
	EVP_MD *md;
	EVP_MD_CTX *ctx;
};

static int fetch(const char *name, EVP_MD **ret)
{
	int size;

	/* some releases of OpenSSL pass over white space */
	if (!name || !name[0] || strcasecmp(name, "none") == 0 || strpbrk(name, " \t\r\n"))
		return -EINVAL;
	*ret = EVP_MD_fetch(NULL, name, NULL);
	if (!*ret) {
		ERR_clear_error();
		return -EINVAL;
	}
	size = EVP_MD_get_size(*ret);
	if (size > 0 && size <= OP_DIGEST_MAX)
		return 0;
	EVP_MD_free(*ret);
	*ret = NULL;
	return -EINVAL;
}

static int begin(struct digest *d)
{
	if (EVP_DigestInit_ex2(d->ctx, d->md, NULL) == 1)
		return 0;
	ERR_clear_error();
	return -ENOMEM;
}

int digest_new(const char *name, struct digest **ret)
{
	_cleanup_digest_ struct digest *d = calloc(1, sizeof(*d));
	int r;

	if (!d)
		return -ENOMEM;
	r = fetch(name, &d->md);
	if (r < 0)
		return r;
	d->ctx = EVP_MD_CTX_new();
	if (!d->ctx)
		return -ENOMEM;
	r = begin(d);
	if (r < 0)
		return r;
	*ret = d;
	d = NULL;
	return 0;
}

void digest_free(struct digest *d)
{
	if (!d)
		return;
	EVP_MD_CTX_free(d->ctx);
	EVP_MD_free(d->md);
	free(d);
}

int digest_update(struct digest *d, const void *data, size_t len)
{
	if (EVP_DigestUpdate(d->ctx, data, len) == 1)
		return 0;
	ERR_clear_error();
	return -EIO;
}

int digest_final(struct digest *d, uint8_t dst[OP_DIGEST_MAX], uint8_t *ret_len)
{
	unsigned len = 0;

	if (EVP_DigestFinal_ex(d->ctx, dst, &len) != 1) {
		ERR_clear_error();
		return -EIO;
	}
	*ret_len = (uint8_t)len;
	return begin(d);
}

int digest_of(const char *name, const void *data, size_t len, uint8_t dst[OP_DIGEST_MAX],
	uint8_t *ret_len)
{
	_cleanup_digest_ struct digest *d = NULL;
	int r;

	r = digest_new(name, &d);
	if (r < 0)
		return r;
	r = digest_update(d, data, len);
	if (r < 0)
		return r;
	return digest_final(d, dst, ret_len);
}

static void (*random_source)(void *dst, size_t len);

void digest_set_random(void (*source)(void *dst, size_t len))
{
	random_source = source;
}

int digest_random(void *dst, size_t len)
{
	if (random_source) {
		random_source(dst, len);
		return 0;
	}
	if (len <= INT_MAX && RAND_bytes(dst, (int)len) == 1)
		return 0;
	ERR_clear_error();
	return -EIO;
}
