// Preloaded into the exporter: a kernel without IPv6, as after the boot parameter ipv6.disable=1.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/socket.h>

int socket(int family, int type, int protocol) {
    if (family == AF_INET6) {
        errno = EAFNOSUPPORT;
        return -1;
    }
    int (*next)(int, int, int) = dlsym(RTLD_NEXT, "socket");
    return next(family, type, protocol);
}
