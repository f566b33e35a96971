/* ops_device.h - op cases on a backend whose memory is not the host's; what the harness's two files
 * share. */
#ifndef OPS_DEVICE_H
#define OPS_DEVICE_H

#include "ops_harness.h"

#define OPS_GUARD 64
#define OPS_MAX_BACKENDS 8
#define OPS_MAX_BLOCKS 32

struct ops_run {
    pare_backend *backends[OPS_MAX_BACKENDS + 1];
    bool (*mode)(int index); /* of a device; NULL: the CPU's backends */
    void *blocks[OPS_MAX_BLOCKS];
    size_t sizes[OPS_MAX_BLOCKS];
    int block_count;
    size_t cases; /* so far: outputs of one case lie aligned, of another not, in every mode */
    uint64_t state;
};

/* Outputs of one call: a copy of the arguments with pointers to fresh memory between sentinels. */
typedef struct ops_instance {
    void *args;
    uint8_t *memory[OPS_MAX_OUTPUTS], *data[OPS_MAX_OUTPUTS];
    size_t total[OPS_MAX_OUTPUTS];
} ops_instance;

typedef pare_status ops_function(pare_backend *be, const void *args);

/* Runs an op with copies on the device of all inputs and of the instance's outputs, which are then
 * copied back, sentinels and all. */
pare_status ops_device_run(ops_run *run, pare_op op, ops_function *call, pare_backend *be,
                           size_t args_size, const ops_output *outs, ops_instance *in);

/* The same without outputs of its own: whatever args point to is copied there and back. */
pare_status ops_device_call(ops_run *run, pare_op op, ops_function *call, pare_backend *be,
                            const void *args, size_t args_size);

#endif
