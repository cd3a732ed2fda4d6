// Preloaded into the exporter: an fsync of a file whose path ends in what stands in the file $FSYNC_FAILS fails; the
// paths of all others are appended to the file $FSYNC_LOG.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int synced(int file, const char *function) {
    char link[32], path[PATH_MAX + 2], ending[NAME_MAX + 1];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX);
    int fails = open(getenv("FSYNC_FAILS"), O_RDONLY);
    ssize_t ends = fails < 0 ? 0 : read(fails, ending, sizeof ending);
    if (fails >= 0) close(fails);
    if (ends > 0 && length >= ends && !memcmp(path + length - ends, ending, ends)) {
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

int fsync(int file) { return synced(file, "fsync"); }
int fdatasync(int file) { return synced(file, "fdatasync"); }
