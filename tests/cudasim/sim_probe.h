/* sim_probe.h - small kernels, right and wrong, that show what the simulator finds. */
#ifndef PARE_CUDASIM_SIM_PROBE_H
#define PARE_CUDASIM_SIM_PROBE_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sim_probe {
    PROBE_BLOCK_SUM,        /* out[0] = 0 + 1 + … + 255 through shuffles and shared memory */
    PROBE_MISSING_BARRIER,  /* out[i] = what thread 255 − i wrote: without a barrier between */
    PROBE_MISSING_SYNCWARP, /* out[i] = what the next lane wrote: without __syncwarp() */
    PROBE_UNWRITTEN_SHARED, /* out[i] = shared memory that nobody wrote */
    PROBE_BEHIND_SHARED,    /* reads one element behind an array */
    PROBE_BEHIND_GLOBAL,    /* writes one element behind out */
    PROBE_LEFT_BARRIER,     /* half of the threads return before a barrier */
    PROBE_TWO_BARRIERS,     /* the threads wait at two different ones */
    PROBE_SHUFFLE_OUTSIDE,  /* a lane takes the value of one that is not in the mask */
    PROBE_LANE_MISSING,     /* a full mask, but half of the warp does not come */
    PROBE_ASYNC_TOO_EARLY,  /* out[i] read before the wait for its copy */
    PROBE_ASYNC,            /* and after it */
    PROBE_MATCH,            /* out[i] = lanes with the same i % 3 */
    PROBES
} sim_probe;

/* Runs a probe on 256 floats of device memory at out. */
void sim_probe_run(sim_probe probe, float *out);

#ifdef __cplusplus
}
#endif
#endif
