"""Bytes from storage to memory. Transports know extents, never formats.

================  =====================================================================================
`base`            the seam: `Transport`, `Reader`, `Extent`
`backends`        the transports, which are the specification's I/O backends
`buffered`        ``preadv`` through the page cache
`direct`          ``O_DIRECT``, past the page cache
`mmap`            windows on the page cache
`gds`             GPUDirect Storage, into device memory
`computed`        arrays in memory, or computed when they are wanted
`descriptors`     bounded pools of open files
`filesystems`     file system and drive of a file
`readahead`       threads that read while the caller decodes
`staging`         aligned memory
`choice`          which of them, and why
`decoders`        the specification's `Decoder`, for encodings of users
`by_range`        tiles by way of such a decoder
================  =====================================================================================
"""

from gpuio.io.choice import Choice, choose, resident_fraction

__all__ = ["Choice", "choose", "resident_fraction"]
