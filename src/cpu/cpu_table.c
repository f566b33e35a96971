/* cpu_table.c - the op table of one instruction set. A missing op does not link. */
#include "cpu_impl.h"

extern const pare__ops PARE_CPU(pare__cpu_ops);

const pare__ops PARE_CPU(pare__cpu_ops) = {
#define SLOT(name) .name = PARE_CPU(pare_cpu_##name),
    PARE_OPS(SLOT)
#undef SLOT
};
