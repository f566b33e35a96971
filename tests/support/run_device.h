/* run_device.h - tests of whole runs on a device, whatever plays it. */
#ifndef RUN_DEVICE_H
#define RUN_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct run_device {
    /* Two devices of so many bytes each, no faults, nothing counted; 0 bytes: there are none. False
     * if it cannot play that, which skips what asks for it. */
    bool (*set_up)(int64_t memory);
    /* Faults, counted from the call on; 0: none. */
    void (*fail_alloc)(int64_t nth); /* the n-th allocation on a device: no memory, once */
    void (*lose)(int64_t nth);       /* from the n-th call on the devices fail */
    /* Since set_up: allocations and calls (ops, copies); bytes held at most, or 0. */
    int64_t (*allocations)(void), (*calls)(void), (*peak)(void);
    bool thorough;    /* fast enough for every case */
    int64_t memory;   /* that it has if nothing else is asked for */
    const char *name; /* of a device, in its report */
} run_device;

/* The exit code of a test program. */
int run_device_tests(const run_device *device);

#endif
