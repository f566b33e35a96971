/* cuda_table.h - the op table of every CUDA backend. */
#ifndef PARE_CUDA_TABLE_H
#define PARE_CUDA_TABLE_H

#include "backend_impl.h"

extern const pare__ops pare__cuda_ops;

#endif
