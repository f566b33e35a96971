/* batch.h - what goes into a model at once: rows of tokens, or images, with their labels. */
#ifndef PARE_BATCH_H
#define PARE_BATCH_H

#include "pare/tensor.h"

/* Host memory of whoever made the batch. Members that do not apply are NULL. */
typedef struct pare_batch {
    int64_t size;           /* B: rows or images */
    int64_t length;         /* T: tokens a row; 0 for images */
    const int32_t *ids;     /* [B, T] */
    const uint8_t *keys;    /* [B, T]: 0 where a token is padding; NULL: none is */
    const float *images;    /* [B, H, W, C], normalised */
    const int32_t *labels;  /* [B] classes, or [B, T] next tokens; −1 does not count */
    const int32_t *labels2; /* [B]: mixup's second label, */
    const float *mix;       /* [B]: and the first one's share */
} pare_batch;

#endif
