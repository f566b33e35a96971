/* hooks.h - how forward and backward show a node to whoever watches. */
#ifndef PARE_MODEL_HOOKS_H
#define PARE_MODEL_HOOKS_H

#include "node.h"

/* Calls the model's hook, which is there. */
pare_status pare__hook_call(pare_model *m, int node, bool backward);

#endif
