// Preloaded into the exporter: what it does to the files below $JOURNAL_FOLDER is appended to $JOURNAL, one operation
// after the other: a letter, the lengths of the path and of the data, the offset, the path, the data.
//
// W  data was written at the offset      T  the file was cut, or made longer, to the offset
// S  a file or the folder was synced     U  a file was removed      R  a file was renamed to the path in the data

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

// An operation and its record are one step, so that the journal has the order of the disk.
static pthread_mutex_t step = PTHREAD_MUTEX_INITIALIZER;

#define REAL(type, name) ((type)dlsym(RTLD_NEXT, name))

static int path_of(int file, char *path) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX);
    path[length < 0 ? 0 : length] = 0;
    return length > 0;
}

static void record(char letter, const char *path, uint64_t offset, const void *data, size_t count) {
    const char *folder = getenv("JOURNAL_FOLDER");
    size_t length = strlen(path);
    if (strncmp(path, folder, strlen(folder))) return;
    // The shared memory of the write-ahead log is made anew by the first process that opens the database.
    if (length > 4 && !strcmp(path + length - 4, "-shm")) return;
    struct __attribute__((packed)) {
        char letter;
        uint32_t path, data;
        uint64_t offset;
    } head = {letter, length, count, offset};
    struct iovec parts[] = {{&head, sizeof head}, {(void *)path, length}, {(void *)data, count}};
    int journal = open(getenv("JOURNAL"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (journal < 0 || writev(journal, parts, 3) != (ssize_t)(sizeof head + length + count)) abort();
    close(journal);
}

static int synced(int file, const char *function) {
    char path[PATH_MAX + 1];
    pthread_mutex_lock(&step);
    int result = REAL(int (*)(int), function)(file);
    if (!result && path_of(file, path)) record('S', path, 0, "", 0);
    pthread_mutex_unlock(&step);
    return result;
}

static ssize_t written(int file, const void *data, size_t count, off_t at, const char *function) {
    char path[PATH_MAX + 1];
    pthread_mutex_lock(&step);
    ssize_t result = REAL(ssize_t (*)(int, const void *, size_t, off_t), function)(file, data, count, at);
    if (result > 0 && path_of(file, path)) record('W', path, at, data, result);
    pthread_mutex_unlock(&step);
    return result;
}

static int cut(int file, off_t size, const char *function) {
    char path[PATH_MAX + 1];
    pthread_mutex_lock(&step);
    int result = REAL(int (*)(int, off_t), function)(file, size);
    if (!result && path_of(file, path)) record('T', path, size, "", 0);
    pthread_mutex_unlock(&step);
    return result;
}

int fsync(int file) { return synced(file, "fsync"); }
int fdatasync(int file) { return synced(file, "fdatasync"); }
ssize_t pwrite(int file, const void *data, size_t count, off_t at) { return written(file, data, count, at, "pwrite"); }
ssize_t pwrite64(int file, const void *data, size_t count, off_t at) { return written(file, data, count, at, "pwrite64"); }
int ftruncate(int file, off_t size) { return cut(file, size, "ftruncate"); }
int ftruncate64(int file, off_t size) { return cut(file, size, "ftruncate64"); }

int unlink(const char *path) {
    pthread_mutex_lock(&step);
    int result = REAL(int (*)(const char *), "unlink")(path);
    if (!result) record('U', path, 0, "", 0);
    pthread_mutex_unlock(&step);
    return result;
}

int rename(const char *from, const char *to) {
    pthread_mutex_lock(&step);
    int result = REAL(int (*)(const char *, const char *), "rename")(from, to);
    if (!result) record('R', from, 0, to, strlen(to));
    pthread_mutex_unlock(&step);
    return result;
}
