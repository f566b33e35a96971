#!/usr/bin/env python3
"""Makes arrays.h5, which tests/unit/test_array.c and test_dataset_*.c read: datasets of every
layout that pare must read, and some that it must refuse. Element i of a [7, 5, 3] dataset is
7 i + 1, byte i of the images i."""
import pathlib

import h5py
import numpy as np

values = (7 * np.arange(105) + 1).astype("<u2").reshape(7, 5, 3)
with h5py.File(pathlib.Path(__file__).with_name("arrays.h5"), "w", libver="earliest") as file:
    file["plain"] = values
    file["in/a/group"] = values
    file.create_dataset("chunked", data=values, chunks=(2, 3, 2))
    file.create_dataset("packed", data=values, chunks=(4, 5, 3), compression="gzip", shuffle=True,
                        fletcher32=True)
    compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    compact.set_layout(h5py.h5d.COMPACT)
    h5py.h5d.create(file.id, b"compact", h5py.h5t.STD_U16LE, h5py.h5s.create_simple(values.shape),
                    compact).write(h5py.h5s.ALL, h5py.h5s.ALL, values)
    for dtype in "u1 i1 u2 i2 u4 i4 u8 i8 f2 f4 f8".split():
        name = dtype[0].upper() + str(8 * int(dtype[1]))
        file[f"types/{name}"] = np.arange(3).astype("<" + dtype)
    file["big_endian"] = values.astype(">u2")
    file["text"] = "some text"
    file.create_dataset("unwritten", (100,), "<i4")
    file["null"] = h5py.Empty("<f4")
    file["soft"] = h5py.SoftLink("/plain")
    file["outside"] = h5py.ExternalLink("other.h5", "/plain")
    images = np.arange(4 * 2 * 3, dtype="u1").reshape(4, 2, 3)
    file.create_dataset("images", data=images, chunks=(3, 2, 2), compression="gzip")
    file["images_labels"] = np.array([3, 1, 2, 0], "u1")
    file["more_images"] = images
    file["labels"] = np.array([7, 8, 9, 7], "<i8")
