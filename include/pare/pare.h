/* pare.h - everything public. */
#ifndef PARE_PARE_H
#define PARE_PARE_H

#include "pare/array.h"
#include "pare/backend.h"
#include "pare/batch.h"
#include "pare/calib.h"
#include "pare/comm.h"
#include "pare/data.h"
#include "pare/distill.h"
#include "pare/dtype.h"
#include "pare/grid.h"
#include "pare/log.h"
#include "pare/lowrank.h"
#include "pare/memory.h"
#include "pare/model.h"
#include "pare/ops.h"
#include "pare/prune.h"
#include "pare/qtensor.h"
#include "pare/quant.h"
#include "pare/recipe.h"
#include "pare/report.h"
#include "pare/run.h"
#include "pare/sched.h"
#include "pare/status.h"
#include "pare/store.h"
#include "pare/tensor.h"
#include "pare/train.h"
#include "pare/train_job.h"
#include "pare/version.h"

#endif
