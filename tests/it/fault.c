// Preloaded into the exporter: a call that goes wrong. Of the calls on files below $FAULT_FOLDER it is the one with the
// number $FAULT_AT; each call is noted in $FAULT_CALLS with its function and its path, a line each.
//
// $FAULT is what happens then:
// error  it fails, and does nothing
// short  it reads or writes half, and says so
// torn   it reads or writes half, and fails
// full   it and all writes after it find the disk full, until the file $FAULT_MENDED is there

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t step = PTHREAD_MUTEX_INITIALIZER;
static long calls = 0;

#define REAL(type, name) ((type)dlsym(RTLD_NEXT, name))

// Notes a call, and says what is to happen to it: 0 for nothing.
static char fault_of_path(const char *function, const char *path) {
    const char *folder = getenv("FAULT_FOLDER");
    if (!folder || strncmp(path, folder, strlen(folder))) return 0;
    pthread_mutex_lock(&step);
    int log = REAL(int (*)(const char *, int, ...), "open")(getenv("FAULT_CALLS"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (log < 0 || dprintf(log, "%s %s\n", function, path) < 0) abort();
    close(log);
    long call = ++calls;
    pthread_mutex_unlock(&step);
    long at = atol(getenv("FAULT_AT"));
    char what = getenv("FAULT")[0];
    if (what != 'f') return call == at ? what : 0;
    int is_full = at && call >= at && !strncmp(function, "pwrite", 6) && access(getenv("FAULT_MENDED"), F_OK);
    return is_full ? what : 0;
}

static char fault(const char *function, int file) {
    char link[32], path[PATH_MAX + 1];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX);
    path[length < 0 ? 0 : length] = 0;
    return fault_of_path(function, path);
}

static int failed(char what) {
    errno = what == 'f' ? ENOSPC : EIO;
    return -1;
}

static ssize_t moved(int file, void *bytes, size_t count, off_t at, const char *function) {
    ssize_t (*real)(int, void *, size_t, off_t) = REAL(ssize_t (*)(int, void *, size_t, off_t), function);
    char what = fault(function, file);
    if (!what) return real(file, bytes, count, at);
    if (what == 'e' || what == 'f') return failed(what);
    ssize_t half = real(file, bytes, count / 2, at);
    return what == 's' ? half : failed(what);
}

static int on_file(int file, const char *function) {
    char what = fault(function, file);
    return what ? failed(what) : REAL(int (*)(int), function)(file);
}

static int cut(int file, off_t size, const char *function) {
    char what = fault(function, file);
    return what ? failed(what) : REAL(int (*)(int, off_t), function)(file, size);
}

static int opened(const char *path, int flags, mode_t mode, const char *function) {
    char what = fault_of_path(function, path);
    return what ? failed(what) : REAL(int (*)(const char *, int, ...), function)(path, flags, mode);
}

#define OPENS(name)                                     \
    int name(const char *path, int flags, ...) {        \
        va_list more;                                   \
        va_start(more, flags);                          \
        mode_t mode = va_arg(more, mode_t);             \
        va_end(more);                                   \
        return opened(path, flags, mode, #name);        \
    }

OPENS(open)
OPENS(open64)

int fsync(int file) { return on_file(file, "fsync"); }
int fdatasync(int file) { return on_file(file, "fdatasync"); }
int ftruncate(int file, off_t size) { return cut(file, size, "ftruncate"); }
int ftruncate64(int file, off_t size) { return cut(file, size, "ftruncate64"); }
ssize_t pread(int file, void *bytes, size_t count, off_t at) { return moved(file, bytes, count, at, "pread"); }
ssize_t pread64(int file, void *bytes, size_t count, off_t at) { return moved(file, bytes, count, at, "pread64"); }
ssize_t pwrite(int file, const void *bytes, size_t count, off_t at) { return moved(file, (void *)bytes, count, at, "pwrite"); }
ssize_t pwrite64(int file, const void *bytes, size_t count, off_t at) { return moved(file, (void *)bytes, count, at, "pwrite64"); }

int unlink(const char *path) {
    char what = fault_of_path("unlink", path);
    return what ? failed(what) : REAL(int (*)(const char *), "unlink")(path);
}

int rename(const char *from, const char *to) {
    char what = fault_of_path("rename", from);
    return what ? failed(what) : REAL(int (*)(const char *, const char *), "rename")(from, to);
}
