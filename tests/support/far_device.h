/* far_device.h - "CUDA devices" without CUDA, behind --device cuda of the program that links this:
 * far backends (far_backend.h), with a limit to their memory and faults to order. */
#ifndef FAR_DEVICE_H
#define FAR_DEVICE_H

#include "run_device.h"

/* NULL if this program's devices are others: a build with CUDA brings its own. */
const run_device *far_device(void);

#endif
