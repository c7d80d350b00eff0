/* A disk that hangs and a name server that is silent, for the process that loads this (LD_PRELOAD).

   fsync and fdatasync wait while the file $ABUSE_HANG is there; looking up a name that begins with "dead" takes 8 s. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void hang(void) {
    const char *file = getenv("ABUSE_HANG");
    for (int turns = 0; file && access(file, F_OK) == 0 && turns < 2400; turns++)
        usleep(50000);
}

int fsync(int fd) {
    hang();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}

int fdatasync(int fd) {
    hang();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    if (node && strncmp(node, "dead", 4) == 0) {
        sleep(8);
        return EAI_AGAIN;
    }
    return ((int (*)(const char *, const char *, const struct addrinfo *, struct addrinfo **))
            dlsym(RTLD_NEXT, "getaddrinfo"))(node, service, hints, found);
}
