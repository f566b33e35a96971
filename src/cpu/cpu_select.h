/* cpu_select.h - what selections share: histograms of keys (select_hist, select_kth), a row of a
 * mask (mask_select, mask_rows). */
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

/* A row's mask, as mask_select has it; threshold below 2^31. Returns the ties still to be pruned.
 * cpu_mask.c */
int64_t PARE_CPU(pare__cpu_select_row)(const uint32_t *row, int64_t cols, uint32_t threshold,
                                       int64_t ties, uint8_t *mask);

#endif
