/* quant_impl.h - the quantisers, one a file. */
#ifndef PARE_QUANT_IMPL_H
#define PARE_QUANT_IMPL_H

#include "pare/quant.h"

extern const pare_quant_method pare__quant_rtn;

#endif
