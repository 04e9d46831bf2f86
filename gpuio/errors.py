"""What can go wrong, as classes.

::

    Exception
    └── GpuioError
        ├── DataSetException            the data or the parameters given with them
        │   ├── FormatError             the bytes are not what the format promises
        │   │   ├── UnknownFormat       no format recognises the file
        │   │   └── TruncatedFile       fewer bytes than the header announces
        │   ├── UnsupportedFeature      valid data that gpuio does not decode
        │   └── ShapeError              shapes, offsets, regions that do not fit (also a ValueError)
        ├── BackendUnavailable          a device, transport or package is not there (also a RuntimeError)
        ├── MemoryBudgetError           one frame does not fit the memory budget (also a MemoryError)
        ├── ConfigError                 a setting is not usable (also a ValueError)
        └── ReadError                   storage gave less than it promised (also an OSError)

Every message is one line that names the file, what was expected, what was found and, where there is one, the remedy.
Errors of the operating system (missing file, permission denied) are passed on as the `OSError` they are.
"""

from __future__ import annotations


class GpuioError(Exception):
    """Base of everything gpuio raises on purpose."""


class DataSetException(GpuioError):
    """The data set, or what was said about it, is not usable."""


class FormatError(DataSetException):
    """The bytes of a file are not what its format promises."""


class UnknownFormat(FormatError):
    """No format recognises the file."""


class TruncatedFile(FormatError):
    """A file holds fewer bytes than its header announces."""


class UnsupportedFeature(DataSetException):
    """The data are valid, but gpuio does not decode them."""


class ShapeError(DataSetException, ValueError):
    """Shapes, sync offsets or regions of interest do not fit the data."""


class BackendUnavailable(GpuioError, RuntimeError):
    """A device, transport or optional package is not available; the message says why and what to do."""


class MemoryBudgetError(GpuioError, MemoryError):
    """The memory budget cannot hold one frame; the message says how much would."""


class ConfigError(GpuioError, ValueError):
    """The config file or an environment variable holds something that is not a setting; the message names file and key."""


class ReadError(GpuioError, OSError):
    """Storage returned fewer bytes than the file's size promised, or failed."""
