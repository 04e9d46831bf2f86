"""The formats: one module each, and the table that names them.

To add a format, write its module and add its row to `FORMATS`. The order of rows is the order of detection among formats
whose extension does not help. Modules are imported when a format is first asked for.

>>> gpuio.formats()
['mib', 'frms6', 'npy', ...]
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from gpuio.errors import DataSetException

if TYPE_CHECKING:
    from gpuio.dataset import DataSet

__all__ = ["FORMATS", "HEAD_BYTES", "Format", "get", "names", "sniff_order"]

#: Bytes from the start of a file that `sniff` functions are shown.
HEAD_BYTES = 4096


class Format(NamedTuple):
    """A row of the table: where a format's data set class is, and which files are likely to be of it."""

    module: str
    class_name: str
    extensions: tuple[str, ...]     #: lower case, without dot
    has_magic: bool = True          #: False: nothing in the bytes tells, so that only the user can name it
    is_file: bool = True            #: False: made from arrays in Python


FORMATS: dict[str, Format] = {
    "mib": Format("gpuio.formats.mib", "MIBDataSet", ("mib", "hdr")),
    "k2is": Format("gpuio.formats.k2is", "K2ISDataSet", ("bin", "gtg")),
    "frms6": Format("gpuio.formats.frms6", "FRMS6DataSet", ("frms6", "hdr")),
    "empad": Format("gpuio.formats.empad", "EMPADDataSet", ("xml", "raw")),
    "dm": Format("gpuio.formats.dm", "DMDataSet", ("dm3", "dm4")),
    "blo": Format("gpuio.formats.blo", "BloDataSet", ("blo",)),
    "mrc": Format("gpuio.formats.mrc", "MRCDataSet", ("mrc",)),
    "ser": Format("gpuio.formats.ser", "SERDataSet", ("ser",)),
    "seq": Format("gpuio.formats.seq", "SEQDataSet", ("seq",)),
    "tvips": Format("gpuio.formats.tvips", "TVIPSDataSet", ("tvips",)),
    "hdf5": Format("gpuio.formats.hdf5", "H5DataSet", ("h5", "hdf5", "hspy", "nxs", "emd", "de5", "dm5", "nc", "mat")),
    "npy": Format("gpuio.formats.npy", "NPYDataSet", ("npy",)),
    "raw_csr": Format("gpuio.formats.raw_csr", "RawCSRDataSet", ("toml",)),
    "raw": Format("gpuio.formats.raw", "RawFileDataSet", (), has_magic=False),
    "memory": Format("gpuio.formats.memory", "MemoryDataSet", (), has_magic=False, is_file=False),
    "dask": Format("gpuio.formats.dask", "DaskDataSet", (), has_magic=False, is_file=False),
}


def names() -> list[str]:
    """Names of all formats, as `gpuio.load` takes them."""
    return list(FORMATS)


def get(name: str) -> type[DataSet]:
    """The data set class of a format.

    Raises
    ------
    DataSetException
        There is no such format.
    """
    try:
        row = FORMATS[name.lower()]
    except (KeyError, AttributeError):
        raise DataSetException(f"format {name!r} is unknown; expected one of {', '.join(FORMATS)}") from None
    cls: type[DataSet] = getattr(import_module(row.module), row.class_name)
    return cls


def sniff_order(path: str) -> list[str]:
    """Formats to try on a file: those with its extension, then the others in the order of the table.

    Formats without anything to recognise them by are left out.
    """
    extension = os.path.splitext(path)[1].lower().removeprefix(".")
    recognisable = [name for name, row in FORMATS.items() if row.has_magic]
    return sorted(recognisable, key=lambda name: extension not in FORMATS[name].extensions)


class _Callable(ModuleType):
    """This package, so that ``gpuio.formats()`` lists the formats and ``gpuio.formats.mib`` is still a module."""

    def __call__(self) -> list[str]:
        return names()


sys.modules[__name__].__class__ = _Callable
