"""NumPy files as bytes: written by NumPy, or with headers packed by hand."""

from __future__ import annotations

import io

import numpy as np

from gpuio.formats.npy import parse
from tests.formats.mib_files import Files


def saved(array, version=(1, 0)):
    """The bytes that NumPy writes."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version)
    return file.getvalue()


def packed(text, data=b"", version=(1, 0), length=None):
    """A file with a header text of our own."""
    text = text if isinstance(text, bytes) else text.encode("utf-8" if version[0] == 3 else "latin-1")
    size = 2 if version[0] == 1 else 4
    return b"\x93NUMPY" + bytes(version) + (len(text) if length is None else length).to_bytes(size, "little") + text + data


def layout_of(blob, **kwargs):
    return parse(Files({"a.npy": blob}), "a.npy", **kwargs)


GOOD = "{'descr': '<u2', 'fortran_order': False, 'shape': (2, 3, 4, 5), }"
DATA = np.arange(120, dtype="<u2").tobytes()
