/* A wall clock that is off by as many seconds as the file $CHAOS_CLOCK says (int64), and jumps as that changes.
   For LD_PRELOAD. What counts on without jumps (CLOCK_MONOTONIC) is left alone, as the kernel leaves it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t offset(void) {
    static volatile int64_t *seconds;
    if (!seconds) {
        const char *path = getenv("CHAOS_CLOCK");
        int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        if (file < 0) return 0;
        void *map = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
        close(file);
        if (map == MAP_FAILED) return 0;
        seconds = map;
    }
    return *seconds;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(id, now);
    if (!code && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
    return code;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec spec;
    int code = clock_gettime(CLOCK_REALTIME, &spec);
    if (!code) { now->tv_sec = spec.tv_sec; now->tv_usec = spec.tv_nsec / 1000; }
    return code;
}

time_t time(time_t *at) {
    struct timespec spec;
    if (clock_gettime(CLOCK_REALTIME, &spec)) return (time_t)-1;
    if (at) *at = spec.tv_sec;
    return spec.tv_sec;
}
