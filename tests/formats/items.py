"""Frames of layouts whose pixels are items of a dtype, looked up byte by byte as `gpuio.layout` describes it."""

from __future__ import annotations

import numpy as np

#: Every dtype that can be decoded, in each byte order.
DTYPES = ["?", "u1", "i1", *(order + kind for kind in ("u2", "u4", "u8", "i2", "i4", "i8", "f2", "f4", "f8", "c8", "c16")
                             for order in "<>")]


def random_items(seed, shape, dtype):
    """Random values over the whole range of a dtype; floats are finite."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "c":
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype)
    if dtype.kind == "f":
        return (rng.normal(size=shape) * 100).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype.newbyteorder("="), endpoint=True).astype(dtype)


def decoded(layout, files):
    """All frames of a layout in native byte order; `files` maps paths to bytes."""
    native = layout.encoding.dtype
    on_disk = native.newbyteorder(">") if layout.encoding.name == "swap" else native
    if layout.strided is not None:
        s = layout.strided
        assert np.dtype(s.dtype) == on_disk
        array = np.ndarray((*s.nav_shape, *layout.sig_shape), on_disk, buffer=files[s.path], offset=s.offset,
                           strides=s.nav_strides + s.sig_strides)
        return array.reshape(-1, *layout.sig_shape).astype(native)
    out = np.zeros((layout.image_count, layout.sig_size), native)
    written = np.zeros(layout.sig_size, int)
    file, offset = layout.parts[0].locate(np.arange(layout.image_count))
    for frame, f, start in zip(out, file, offset, strict=True):
        blob = np.frombuffer(files[layout.parts[0][int(f)].path], "u1")
        for p in layout.pieces:
            row, repeat, i = np.ogrid[:p.rows, :p.repeats, :p.pixels]
            at = start + p.src + row * p.row_src + repeat * p.rep_src + i * on_disk.itemsize
            pos = p.pos + row * p.row_pos + repeat * p.rep_pos + i
            frame[pos] = blob[at[..., None] + np.arange(on_disk.itemsize)].view(on_disk)[..., 0]
            np.add.at(written, pos, 1)
    assert (written == layout.image_count).all()        # every pixel of every frame once
    return out.reshape(layout.image_count, *layout.sig_shape)


def assert_same(found, expected):
    """Equal in every element, dtype and byte order native."""
    found = np.asarray(found)
    assert found.dtype == np.dtype(expected.dtype).newbyteorder("=")
    np.testing.assert_array_equal(found, expected)
