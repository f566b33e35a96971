/* cpu_select.h - histograms of keys, for select_hist and select_kth. */
#ifndef PARE_CPU_SELECT_H
#define PARE_CPU_SELECT_H

#include "cpu_bits.h"

#define CPU_HIST_TABLES 4 /* neighbouring elements go to different ones */
#define CPU_HIST_TABLE (CPU_HIST_TABLES * PARE_SELECT_HIGH_BINS * sizeof(uint16_t)) /* bytes */

/* Adds to bins, as select_hist does. table: CPU_HIST_TABLE bytes of scratch. cpu_select.c */
void PARE_CPU(pare__cpu_hist_high)(const uint32_t *x, int64_t n, uint16_t *table,
                                   int64_t *bins /* [PARE_SELECT_HIGH_BINS] */);
void PARE_CPU(pare__cpu_hist_low)(const uint32_t *x, int64_t n, uint32_t prefix,
                                  int64_t *bins /* [PARE_SELECT_LOW_BINS] */);

#endif
