/* store_h5_seal.h - the seal of a native checkpoint: 512 bytes of text in front of the HDF5 file
 * (its user block) that say how long the file is and what its metadata and texts sum to.
 *
 * HDF5 trusts its metadata and can crash on damaged ones, so nothing of a file is given to it
 * before its seal held.
 */
#ifndef PARE_STORE_H5_SEAL_H
#define PARE_STORE_H5_SEAL_H

#include "pare/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PARE__H5_BLOCK 512 /* the least user block that HDF5 allows */
#define PARE__H5_VERSION 1

typedef struct pare__h5_seal {
    int64_t size;          /* of the whole file */
    int64_t data_begin;    /* all HDF5 metadata lie in [PARE__H5_BLOCK, data_begin) */
    uint64_t metadata_crc; /* of those bytes */
    bool finished;         /* pare_writer_finish has been here */
    uint64_t
        texts_crc; /* if finished: of config, metadata, provenance, checksums one after the other */
} pare__h5_seal;

/* CRC-64/XZ (polynomial 42F0E1EBA9EA3693, reflected, all ones in and out) of bytes that follow
 * those of crc; start with 0. */
uint64_t pare__crc64(uint64_t crc, const void *bytes, size_t size);

/* The one text of a seal, padded with NULs to PARE__H5_BLOCK bytes. */
void pare__h5_seal_text(const pare__h5_seal *seal, char *block);

/* Whether a file's first bytes are a seal of whatever version. */
bool pare__h5_sealed(const void *block, size_t size);

/* Reads the seal and proves it against the file's size and metadata. PARE_ERR_DAMAGED with what
 * does not hold; PARE_ERR_UNSUPPORTED for another version, or no seal at all. */
pare_status pare__h5_seal_check(int fd, const char *path, int64_t size, pare__h5_seal *seal);

/* Writes the seal of a file; computes metadata_crc from the bytes that are there. */
pare_status pare__h5_seal_write(int fd, const char *path, pare__h5_seal *seal);

#endif
