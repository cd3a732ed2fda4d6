// Preloaded into the exporter: a disk that fails. Which file it is stands in other files, as the end of its path:
//
// $FSYNC_FAILS  its next fsync fails, and this file is removed
// $WRITE_FAILS  each write to it finds the disk full
// $FSYNC_LOG    the paths of all that were synced are appended here

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static ssize_t path_of(int file, char *path) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    return readlink(link, path, PATH_MAX);
}

static int fails(const char *name, const char *path, ssize_t length) {
    char ending[NAME_MAX + 1];
    int file = open(getenv(name), O_RDONLY);
    if (file < 0) return 0;
    ssize_t ends = read(file, ending, sizeof ending);
    close(file);
    return ends > 0 && length >= ends && !memcmp(path + length - ends, ending, ends);
}

static int synced(int file, const char *function) {
    char path[PATH_MAX + 1];
    ssize_t length = path_of(file, path);
    if (fails("FSYNC_FAILS", path, length)) {
        unlink(getenv("FSYNC_FAILS"));
        errno = EIO;
        return -1;
    }
    path[length] = '\n';
    int log = open(getenv("FSYNC_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (log < 0 || write(log, path, length + 1) < 0) abort();
    close(log);
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, function);
    return real(file);
}

static ssize_t written(int file, const void *bytes, size_t count, off_t at, const char *function) {
    char path[PATH_MAX + 1];
    if (fails("WRITE_FAILS", path, path_of(file, path))) {
        errno = ENOSPC;
        return -1;
    }
    ssize_t (*real)(int, const void *, size_t, off_t) =
        (ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, function);
    return real(file, bytes, count, at);
}

int fsync(int file) { return synced(file, "fsync"); }
int fdatasync(int file) { return synced(file, "fdatasync"); }
ssize_t pwrite(int file, const void *bytes, size_t count, off_t at) { return written(file, bytes, count, at, "pwrite"); }
ssize_t pwrite64(int file, const void *bytes, size_t count, off_t at) { return written(file, bytes, count, at, "pwrite64"); }
