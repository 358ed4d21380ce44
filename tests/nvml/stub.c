/* A stand-in for NVIDIA's libnvidia-ml.so.1, as far as worldloop asks it.
 *
 * The file that NVML_STUB names says what it plays, and is read again at every call:
 *
 *   gpu UTIL USED TOTAL PIDS [mig]   one GPU: percent, MiB, MiB, comma list; "-" is not readable (UTIL, PIDS)
 *   mig USED TOTAL PIDS              an instance of the GPU before it
 *   fail FUNCTION CODE [GPU]         this function ("*": each that takes a GPU) fails, on one GPU or everywhere
 *
 * GPU processes are told in the layout of nvmlProcessInfo_v2_t, which both _v2 and _v3 have.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6,
       INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, VERSION_MISMATCH = 25 };
enum { GPUS = 16, INSTANCES = 7, FAILURES = 16, LONGEST = 512, RESERVED = 8 /* MiB, by the driver */ };

typedef unsigned long long u64;
typedef struct { u64 total, free, used; } Memory;
typedef struct { unsigned version; u64 total, reserved, free, used; } Memory2;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; } Process;
typedef struct { u64 used, total; char pids[LONGEST]; } Part;
typedef struct { int utilization, mig, instances; Part whole, part[INSTANCES]; } Gpu;
typedef struct { char function[64]; int code, gpu; } Failure;

static int opened, gpus, failures;
static Gpu gpu[GPUS];
static Failure failure[FAILURES];

/* Handles are no addresses: 0x1000 and up, one page for a GPU, its instances within the page. */
static int gpu_of(void *device) { return (int)((size_t)device >> 12) - 1; }
static int instance_of(void *device) { return (int)((size_t)device & 0xfff) - 1; }
static void *handle(int index, int instance) { return (void *)(((size_t)index + 1) << 12 | (size_t)(instance + 1)); }

static int play(void) {
    const char *path = getenv("NVML_STUB");
    FILE *script = path ? fopen(path, "r") : NULL;
    char line[LONGEST], first[LONGEST], mig[8];
    if (!script) return DRIVER_NOT_LOADED;
    gpus = failures = 0;
    while (fgets(line, sizeof line, script)) {
        Gpu *last = gpus ? &gpu[gpus - 1] : NULL;
        Part part;
        Failure fails = {.gpu = -1};
        int words = sscanf(line, "gpu %511s %llu %llu %511s %7s", first, &part.used, &part.total, part.pids, mig);
        if (words >= 4 && gpus < GPUS) {
            gpu[gpus++] = (Gpu){.utilization = strcmp(first, "-") ? atoi(first) : -1, .mig = words == 5, .whole = part};
        } else if (last && sscanf(line, "mig %llu %llu %511s", &part.used, &part.total, part.pids) == 3) {
            last->part[last->instances++] = part;
        } else if (sscanf(line, "fail %63s %d %d", fails.function, &fails.code, &fails.gpu) >= 2) {
            failure[failures++] = fails;
        }
    }
    fclose(script);
    return OK;
}

/* What every call begins with. `index` is -1 for a call that takes no GPU. */
static int begin(const char *function, int index) {
    int problem = play();
    if (problem) return problem;
    for (int i = 0; i < failures; i++) {
        int named = !strcmp(failure[i].function, function) || (index >= 0 && !strcmp(failure[i].function, "*"));
        if (named && (failure[i].gpu < 0 || failure[i].gpu == index)) return failure[i].code;
    }
    if (!opened && strcmp(function, "nvmlInitWithFlags")) return UNINITIALIZED;
    return index < gpus ? OK : INVALID;
}

#define BEGIN(index) do { int problem = begin(__func__, index); if (problem) return problem; } while (0)

int nvmlInitWithFlags(unsigned flags) { (void)flags; BEGIN(-1); opened++; return OK; }
int nvmlShutdown(void) { BEGIN(-1); opened--; return OK; }
int nvmlDeviceGetCount_v2(unsigned *count) { BEGIN(-1); *count = (unsigned)gpus; return OK; }

int nvmlSystemGetDriverVersion(char *text, unsigned length) {
    BEGIN(-1);
    snprintf(text, length, "999.99.stub");
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    BEGIN((int)index);
    *device = handle((int)index, -1);
    return OK;
}

int nvmlDeviceGetName(void *device, char *text, unsigned length) {
    BEGIN(gpu_of(device));
    snprintf(text, length, "Stub GPU %d", gpu_of(device));
    return OK;
}

static Part *part_of(void *device) {
    Gpu *whole = &gpu[gpu_of(device)];
    return instance_of(device) < 0 ? &whole->whole : &whole->part[instance_of(device)];
}

int nvmlDeviceGetMemoryInfo(void *device, Memory *memory) {
    BEGIN(gpu_of(device));
    u64 used = (part_of(device)->used + RESERVED) << 20, total = part_of(device)->total << 20;
    *memory = (Memory){.total = total, .free = total - used, .used = used};
    return total ? OK : NO_PERMISSION;
}

#ifndef BEFORE_510 /* drivers from then on */
int nvmlDeviceGetMemoryInfo_v2(void *device, Memory2 *memory) {
    BEGIN(gpu_of(device));
    if (memory->version != (sizeof *memory | 2u << 24)) return VERSION_MISMATCH;
    u64 used = part_of(device)->used << 20, total = part_of(device)->total << 20, reserved = (u64)RESERVED << 20;
    *memory = (Memory2){memory->version, total, reserved, total - reserved - used, used};
    return total ? OK : NO_PERMISSION;
}
#endif

int nvmlDeviceGetUtilizationRates(void *device, Utilization *rates) {
    BEGIN(gpu_of(device));
    int percent = gpu[gpu_of(device)].utilization;
    *rates = (Utilization){.gpu = (unsigned)percent, .memory = 1};
    return percent < 0 || gpu[gpu_of(device)].mig ? NOT_SUPPORTED : OK;
}

static int processes(void *device, unsigned *count, Process *found) {
    char list[LONGEST], *rest = list, *word;
    unsigned wanted = 0, room = *count;
    strcpy(list, part_of(device)->pids);
    if (!strcmp(list, "-")) return NO_PERMISSION;
    while ((word = strtok_r(rest, ",", &rest))) {
        if (atoi(word) && ++wanted <= room && found)
            found[wanted - 1] = (Process){(unsigned)atoi(word), 64 << 20, 0xffffffff, 0xffffffff};
    }
    *count = wanted;
    return wanted <= room ? OK : INSUFFICIENT_SIZE;
}

int nvmlDeviceGetComputeRunningProcesses_v2(void *device, unsigned *count, Process *found) {
    BEGIN(gpu_of(device));
    return processes(device, count, found);
}

#ifndef BEFORE_510 /* drivers from then on */
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, Process *found) {
    BEGIN(gpu_of(device));
    return processes(device, count, found);
}
#endif

int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    BEGIN(gpu_of(device));
    *current = *pending = (unsigned)gpu[gpu_of(device)].mig;
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) {
    BEGIN(gpu_of(device));
    *count = gpu[gpu_of(device)].mig ? INSTANCES : 0;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **instance) {
    BEGIN(gpu_of(device));
    if (index >= (unsigned)gpu[gpu_of(device)].instances) return NOT_FOUND;
    *instance = handle(gpu_of(device), (int)index);
    return OK;
}
