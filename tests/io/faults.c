/* Failing storage: preload it, and chosen calls that read chosen files go wrong.
 *
 *   FAULT        short (half of what was asked for), eio, estale, eof (nothing, as at the end of the file), eintr
 *   FAULT_PATH   part of the path of the files concerned
 *   FAULT_AFTER  calls on them that go well first; default 0
 *   FAULT_TIMES  calls that go wrong then; default all
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int calls;

static int number(const char *name, int otherwise) {
  const char *value = getenv(name);
  return value ? atoi(value) : otherwise;
}

static int concerned(int fd) {
  const char *want = getenv("FAULT_PATH");
  char link[64], path[PATH_MAX];
  if (!want) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return 0;
  path[n] = 0;
  if (!strstr(path, want)) return 0;
  int call = __sync_fetch_and_add(&calls, 1) - number("FAULT_AFTER", 0);
  return call >= 0 && call < number("FAULT_TIMES", INT_MAX);
}

/* 0: go on, with *len shortened if so; 1: return *result */
static int faulty(int fd, size_t *len, ssize_t *result) {
  if (!concerned(fd)) return 0;
  const char *fault = getenv("FAULT");
  if (!strcmp(fault, "short")) {
    if (*len > 1) *len /= 2;
    return 0;
  }
  *result = -1;
  if (!strcmp(fault, "eio")) errno = EIO;
  else if (!strcmp(fault, "estale")) errno = ESTALE;
  else if (!strcmp(fault, "eintr")) errno = EINTR;
  else *result = 0;
  return 1;
}

#define PREAD(name) \
  ssize_t name(int fd, void *to, size_t len, off64_t at) { \
    static ssize_t (*real)(int, void *, size_t, off64_t); \
    ssize_t result; \
    if (!real) real = dlsym(RTLD_NEXT, #name); \
    return faulty(fd, &len, &result) ? result : real(fd, to, len, at); \
  }

/* Readers of gpuio pass one buffer. */
#define PREADV(name, PARAMETER, ARGUMENT) \
  ssize_t name(int fd, const struct iovec *iov, int n, off64_t at PARAMETER) { \
    static ssize_t (*real)(int, const struct iovec *, int, off64_t PARAMETER); \
    struct iovec one = iov[0]; \
    ssize_t result; \
    if (!real) real = dlsym(RTLD_NEXT, #name); \
    return faulty(fd, &one.iov_len, &result) ? result : real(fd, n == 1 ? &one : iov, n, at ARGUMENT); \
  }

#define COMMA ,
PREAD(pread)
PREAD(pread64)
PREADV(preadv, , )
PREADV(preadv64, , )
PREADV(preadv2, COMMA int flags, COMMA flags)
PREADV(preadv64v2, COMMA int flags, COMMA flags)
