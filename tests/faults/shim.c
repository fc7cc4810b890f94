/* Makes the n-th call of one kind fail, or kills the process there.
 *
 * Preloaded with LD_PRELOAD. Calls count while the library is armed, and only those on files below
 * one folder; of the allocations, only those of at least 64 KiB, which are arrays and tensors.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN, READ, WRITE, RENAME, FSYNC, REMOVE, MKDIR, LOCK, SHORTEN, MEMORY, KINDS };
enum { KILL = -1 };
static const size_t LARGE = 1 << 16;

static char folder[PATH_MAX];
static atomic_int is_armed;
static atomic_long counts[KINDS];
static long failing;
static int failing_kind, failure, lasts;

/* A negative kind only counts. */
void faults_arm(const char *below, int kind, long n, int error, int is_lasting) {
    strncpy(folder, below, sizeof folder - 1);
    failing_kind = kind;
    failing = n;
    failure = error;
    lasts = is_lasting;
    is_armed = 1;
}

long faults_count(int kind) { return counts[kind]; }

static int fails(int kind) {
    if (!is_armed) return 0;
    long number = ++counts[kind];
    if (kind != failing_kind || number < failing || (number > failing && !lasts)) return 0;
    if (failure == KILL) kill(getpid(), SIGKILL);
    errno = failure;
    return 1;
}

static int is_below(const char *path) { return !strncmp(path, folder, strlen(folder)); }

static int path_fails(int kind, const char *path) {
    return is_armed && is_below(path) && fails(kind);
}

static int file_fails(int kind, int file) {
    char link[64], path[PATH_MAX];
    if (!is_armed) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path) && fails(kind);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define MODE va_list list; va_start(list, flags); mode_t mode = va_arg(list, mode_t); va_end(list)
#define ON_PATH(kind, type, name, parameters, arguments, path) \
    type name parameters { return path_fails(kind, path) ? -1 : REAL(name) arguments; }
#define ON_FILE(kind, type, name, parameters, arguments) \
    type name parameters { return file_fails(kind, file) ? -1 : REAL(name) arguments; }

int open(const char *path, int flags, ...) {
    MODE;
    return path_fails(OPEN, path) ? -1 : REAL(open)(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE;
    return path_fails(OPEN, path) ? -1 : REAL(open64)(path, flags, mode);
}
int openat(int at, const char *path, int flags, ...) {
    MODE;
    return path_fails(OPEN, path) ? -1 : REAL(openat)(at, path, flags, mode);
}
int openat64(int at, const char *path, int flags, ...) {
    MODE;
    return path_fails(OPEN, path) ? -1 : REAL(openat64)(at, path, flags, mode);
}

ON_FILE(READ, ssize_t, read, (int file, void *to, size_t n), (file, to, n))
ON_FILE(READ, ssize_t, pread, (int file, void *to, size_t n, off_t at), (file, to, n, at))
ON_FILE(READ, ssize_t, pread64, (int file, void *to, size_t n, off64_t at), (file, to, n, at))
ON_FILE(WRITE, ssize_t, write, (int file, const void *from, size_t n), (file, from, n))
ON_FILE(WRITE, ssize_t, pwrite, (int file, const void *from, size_t n, off_t at),
        (file, from, n, at))
ON_FILE(WRITE, ssize_t, pwrite64, (int file, const void *from, size_t n, off64_t at),
        (file, from, n, at))
ON_FILE(WRITE, ssize_t, writev, (int file, const struct iovec *from, int n), (file, from, n))
ON_FILE(SHORTEN, int, ftruncate, (int file, off_t size), (file, size))
ON_FILE(SHORTEN, int, ftruncate64, (int file, off64_t size), (file, size))
ON_FILE(FSYNC, int, fsync, (int file), (file))
ON_FILE(FSYNC, int, fdatasync, (int file), (file))
ON_FILE(LOCK, int, flock, (int file, int operation), (file, operation))
ON_PATH(RENAME, int, rename, (const char *from, const char *to), (from, to), from)
ON_PATH(RENAME, int, renameat, (int at, const char *from, int in, const char *to),
        (at, from, in, to), from)
ON_PATH(RENAME, int, link, (const char *from, const char *to), (from, to), from)
ON_PATH(REMOVE, int, unlink, (const char *path), (path), path)
ON_PATH(REMOVE, int, unlinkat, (int at, const char *path, int flags), (at, path, flags), path)
ON_PATH(REMOVE, int, rmdir, (const char *path), (path), path)
ON_PATH(MKDIR, int, mkdir, (const char *path, mode_t mode), (path, mode), path)
ON_PATH(MKDIR, int, mkdirat, (int at, const char *path, mode_t mode), (at, path, mode), path)

/* dlsym allocates memory itself, so these call the names that glibc exports for the purpose. */
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static int memory_fails(size_t size) { return size >= LARGE && fails(MEMORY); }

void *malloc(size_t size) { return memory_fails(size) ? NULL : __libc_malloc(size); }
void *calloc(size_t n, size_t size) {
    return memory_fails(n * size) ? NULL : __libc_calloc(n, size);
}
void *realloc(void *old, size_t size) {
    return memory_fails(size) ? NULL : __libc_realloc(old, size);
}
int posix_memalign(void **block, size_t alignment, size_t size) {
    if (memory_fails(size)) return ENOMEM;
    return (*block = __libc_memalign(alignment, size)) ? 0 : ENOMEM;
}
