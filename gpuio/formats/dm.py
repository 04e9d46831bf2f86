"""DM3 and DM4: images, stacks and 4D scans of Gatan's DigitalMicrograph. `_dmtags` describes the tags that such a file is made of.

A data set is one file with a stack or a scan, or a list of files with one or more frames each. Of every image of a file, below
``ImageList/<i>``:

=======================================================  ===================================================================
tag                                                      meaning
=======================================================  ===================================================================
``ImageData/Data``                                       array; its first item is pixel 0, at any byte, often an odd one
``ImageData/DataType``                                   type of a pixel, see below
``ImageData/Dimensions/<k>``                             axes, the fastest first
``ImageData/Calibrations/Dimension/<k>/...``             ``Origin``, ``Scale``, ``Units``: value = (index - Origin) * Scale
``ImageTags/Meta Data/Format``                           ``Image``, ``Diffraction image``, ``Spectrum``, ``Spectrum image``
``ImageTags/Meta Data/Data Order Swapped``               whether the detector is fastest
``ImageTags/SI/Acquisition/Spatial Sampling/...``        ``Width (pixels)``, ``Height (pixels)`` of the scan
``ImageTags/4D STEM Tags/Scan shape X``, ``... Y``       scan of a stack (NCEM TitanX)
``/Thumbnails/<j>/ImageIndex``                           an image that is the preview of another one
=======================================================  ===================================================================

===========  ==========================================================================================================
DataType     pixel, in the byte order of the file
===========  ==========================================================================================================
1 7 39       int16, int32, int64
9            int8
6 10 11 40   uint8, uint16, uint32, uint64
2 12         float32, float64
3 13         complex of float32, float64
14           bool, one byte
others       5, 27, 28 packed complex, 8, 23 colours: refused
===========  ==========================================================================================================

=======================  ===========================  ==================================================================
image                    axes, the fastest first      pixel s of frame i
=======================  ===========================  ==================================================================
2D, stack                x, y[, frame]                data + (i S + s) items
spectrum image (3D)      nav x, nav y, energy         data + (s N + i) items
4D, swapped              sig x, sig y, nav x, nav y   data + (i S + s) items
4D, not swapped          nav x, nav y, sig x, sig y   data + (s N + i) items
=======================  ===========================  ==================================================================

with S pixels a frame and N positions. A 4D image without ``Data Order Swapped`` is told by its units (1/nm, mrad: detector; nm:
scan), else by the Spatial Sampling, else taken as not swapped, as files from before that tag are.

Quirks:

- Survey images come before the scan in the same file. The image with the most axes is taken, the largest of these.
- ``Data`` comes before its dimensions: nothing can be told about a file that ends inside of it.
- There may be fewer calibrations than axes.

Sources: public files in the test data of RosettaSciIO and openNCEM; for 4D files, issues of openNCEM, py4DSTEM and LiberTEM.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuio.dataset import DataSet, MessageConverter, message_schema
from gpuio.errors import DataSetException, FormatError, UnsupportedFeature
from gpuio.fileset import File, FileSet
from gpuio.formats import FORMATS
from gpuio.formats._arguments import integer, nav_or_sig_shape, renamed, sync
from gpuio.formats._dmtags import Array, TagPath, Value, is_tag_file, read_tags
from gpuio.layout import Encoding, Layout, Strided, plain_pieces
from gpuio.source import Source

#: DataType: dtype of a pixel, without byte order.
PIXELS = {1: "i2", 2: "f4", 3: "c8", 6: "u1", 7: "i4", 9: "i1", 10: "u2", 11: "u4", 12: "f8", 13: "c16", 14: "?", 39: "i8", 40: "u8"}
REFUSED = {5: "packed complex numbers", 8: "colours (RGB)", 23: "colours (RGB)", 27: "packed complex numbers", 28: "packed complex numbers"}
THUMBNAIL_TYPE = 23

#: Units of axes, in lower case.
DETECTOR_UNITS = {"1/nm", "1/a", "1/å", "mrad", "rad"}
SCAN_UNITS = {"nm", "µm", "μm", "um", "a", "å", "m"}

#: Tags below ``ImageTags`` (or the image, for its name) that become metadata.
METADATA = {
    "name": ("Name",),
    "format": ("ImageTags", "Meta Data", "Format"),
    "signal": ("ImageTags", "Meta Data", "Signal"),
    "acquisition_mode": ("ImageTags", "Meta Data", "Acquisition Mode"),
    "microscope": ("ImageTags", "Microscope Info", "Name"),
    "voltage_v": ("ImageTags", "Microscope Info", "Voltage"),
    "camera_length_mm": ("ImageTags", "Microscope Info", "STEM Camera Length"),
    "magnification": ("ImageTags", "Microscope Info", "Indicated Magnification"),
    "illumination_mode": ("ImageTags", "Microscope Info", "Illumination Mode"),
    "imaging_mode": ("ImageTags", "Microscope Info", "Imaging Mode"),
    "operation_mode": ("ImageTags", "Microscope Info", "Operation Mode"),
    "pixel_time_s": ("ImageTags", "SI", "Acquisition", "Pixel time (s)"),
    "brightness_origin": ("ImageData", "Calibrations", "Brightness", "Origin"),
    "brightness_scale": ("ImageData", "Calibrations", "Brightness", "Scale"),
    "brightness_unit": ("ImageData", "Calibrations", "Brightness", "Units"),
}


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a file.

    Attributes
    ----------
    index
        In ``ImageList``, from 0; previews count.
    shape
        Axes, the slowest first.
    data_type
        DataType.
    data
        Its pixels.
    tags
        All other values, by their paths below ``ImageList/<index>``.
    """

    index: int
    shape: tuple[int, ...]
    data_type: int
    data: Array
    tags: Mapping[TagPath, Value]

    def __str__(self) -> str:
        kind = PIXELS.get(self.data_type)
        return f"{self.index}: {self.shape} {np.dtype(kind) if kind else REFUSED.get(self.data_type, f'type {self.data_type}')}"

    @property
    def dtype(self) -> np.dtype:
        """Of a pixel, in the byte order of the file."""
        kind = np.dtype(PIXELS[self.data_type])
        order = (self.data.dtype["f0"] if self.data.dtype.names else self.data.dtype).byteorder
        return kind.newbyteorder(">") if order == ">" else kind

    def get(self, *path: str) -> Any:
        """A value as Python has it, text included; None if it is not there, or a long array."""
        value = self.tags.get(path)
        return value.text if isinstance(value, Array) else value


def sniff(head: bytes, path: str) -> bool:
    """Whether a file beginning with `head` is made of DigitalMicrograph tags."""
    return is_tag_file(head)


def parse(source: Source, path: str, *, dataset_index: int | None = None, force_c_order: bool = False) -> Layout:
    """Where the frames of a file with one image, stack or scan are.

    Parameters
    ----------
    source
        Where to read.
    path
        The file.
    dataset_index
        Position of the image in the file's list, in which previews count; None: the one with the most axes.
    force_c_order
        Take the two fastest axes as the detector's, whatever the file says.

    Raises
    ------
    FormatError
        It is no DM3 or DM4 file, a damaged one, or has no such image.
    UnsupportedFeature
        The image is a single spectrum, has more than four axes, or a type of pixel that is not read.
    OSError
        The file is missing or may not be read.
    """
    version, found = _images(source, path)
    image = _choose(path, found, dataset_index)
    notes = _others(found, image)
    item, shape = image.dtype, image.shape
    n_sig, strided = _order(path, image, force_c_order, notes)
    if strided:
        sig, nav = shape[:n_sig], shape[n_sig:]
        steps = tuple(math.prod(shape[i + 1:]) * item.itemsize for i in range(len(shape)))
        layout = Strided(path, image.data.offset, item, nav, steps[n_sig:], steps[:n_sig])
        notes.append("navigation is stored fastest: every frame is scattered over the whole image and slow to read alone")
        parts: tuple[FileSet, ...] = ()
    else:
        sig, nav = shape[-n_sig:], shape[:-n_sig] or (1,)
        nav = _titan_x_scan(image, nav)
        layout = None
        parts = (FileSet([File(path, 0, math.prod(nav), item, sig, file_header=image.data.offset, size=source.size(path))]),)
    return Layout(
        format="dm", parts=parts, encoding=Encoding.of(item), pieces=plain_pieces(sig, sig[-1] * item.itemsize), sig_shape=sig,
        nav_shape=nav, image_count=math.prod(nav), strided=layout, metadata=_metadata(version, image, n_sig, strided), notes=tuple(notes),
    )


def parse_stack(source: Source, paths: Sequence[str], *, same_offset: bool = False, dataset_index: int | None = None) -> Layout:
    """Where the frames of a list of files are: each has an image or a stack of images, all of one shape and dtype.

    Parameters
    ----------
    paths
        The files, in the order of their frames.
    same_offset
        Read the header of the first file only: all others are laid out like it. Their sizes are compared.

    Raises
    ------
    DataSetException
        The list is empty or names a file twice, or the files differ; other errors as `parse`.
    """
    if not paths:
        raise DataSetException("files is an empty list; expected the paths of DM3 or DM4 files in the order of their frames")
    seen: set[str] = set()
    for path in paths:
        if (place := os.path.abspath(path)) in seen:
            raise DataSetException(f"{path}: is in the list of files twice")
        seen.add(place)
    version, found = _images(source, paths[0])
    first = _stack_image(paths[0], found, dataset_index)
    first_size, sig, item, notes = source.size(paths[0]), first.shape[-2:], first.dtype, _others(found, first)
    files: list[File] = []
    for path in paths:
        image, size = first, source.size(path)
        if same_offset and size != first_size:
            raise FormatError(f"{path}: has {size} bytes; expected {first_size} as {paths[0]}, for same_offset=True")
        if not same_offset and path is not paths[0]:
            image = _stack_image(path, _images(source, path, brief=True)[1], dataset_index)
            if (image.shape[-2:], image.dtype) != (sig, item):
                raise FormatError(f"{path}: has frames of {image.shape[-2:]} {image.dtype}; expected {sig} {item} as in {paths[0]}")
        start = files[-1].end_idx if files else 0
        files.append(File(path, start, start + math.prod(image.shape[:-2]), item, sig, file_header=image.data.offset, size=size))
    count = files[-1].end_idx
    return Layout(
        format="dm", parts=(FileSet(files),), encoding=Encoding.of(item), pieces=plain_pieces(sig, sig[-1] * item.itemsize),
        sig_shape=sig, nav_shape=(count,), image_count=count, metadata=_metadata(version, first, 2, False), notes=tuple(notes),
    )


# -- images of a file --------------------------------------------------------------------------------------------------


def _images(source: Source, path: str, *, brief: bool = False) -> tuple[int, list[Image]]:
    """Version of a file, and its images without previews. `brief` skips what is not needed to find pixels, where that is possible."""
    tags = read_tags(source, path, _is_needed if brief else None)
    by_image: dict[int, dict[TagPath, Value]] = {}
    previews = set()
    for name, value in tags.values.items():
        if name[0] == "ImageList" and len(name) > 2 and name[1].isdecimal():
            by_image.setdefault(int(name[1]), {})[name[2:]] = value
        elif name[0] == "Thumbnails" and name[-1] == "ImageIndex":
            previews.add(value)
    images = [image for index, values in by_image.items() if (image := _image(path, index, values)) is not None]
    if not previews and len(images) > 1 and images[0].data_type == THUMBNAIL_TYPE and len(images[0].shape) == 2:
        previews = {images[0].index}
    images = [image for image in images if image.index not in previews]
    if not images:
        raise FormatError(f"{path}: holds tags, but no image data" + ("; the .gtg of K2IS is opened with its .bin files, as 'k2is'"
                                                                      if path.lower().endswith(".gtg") else ""))
    return tags.version, images


def _is_needed(group: TagPath) -> bool:
    """Whether a group of tags helps to find pixels, and to tell images from spectrum images."""
    if group[0] == "ImageList":
        return group[2:] in ((), ("ImageData",), ("ImageData", "Dimensions"), ("ImageTags",), ("ImageTags", "Meta Data"))
    return group[0] == "Thumbnails"


def _image(path: str, index: int, values: dict[TagPath, Value]) -> Image | None:
    """An image, or None if the entry has no pixels."""
    data, kind = values.get(("ImageData", "Data")), values.get(("ImageData", "DataType"))
    if data is None:
        return None
    sizes: list[Value] = []
    while (size := values.get(("ImageData", "Dimensions", str(len(sizes))))) is not None:
        sizes.append(size)
    shape = tuple(n for n in map(integer, reversed(sizes)) if n is not None and n > 0)
    if not isinstance(data, Array) or integer(kind) is None or not sizes or len(shape) != len(sizes):
        raise FormatError(f"{path}: image {index} has no array of pixels with a type and positive dimensions; "
                          f"found DataType {kind!r}, dimensions {sizes[::-1]!r}")
    assert isinstance(kind, int)
    return Image(index, shape, kind, data, values)


def _choose(path: str, images: list[Image], dataset_index: int | None) -> Image:
    """The image asked for, or the one with the most axes, checked."""
    if dataset_index is None:
        known = [image for image in images if image.data_type in PIXELS]
        image = max(known or images, key=lambda image: (len(image.shape), image.data.n_bytes))
    else:
        image = next((image for image in images if image.index == dataset_index), images[0])
        if image.index != dataset_index:
            raise FormatError(f"{path}: has no image {dataset_index!r}; it has {_listed(images)}")
    if image.data_type not in PIXELS:
        raise UnsupportedFeature(f"{path}: image {image.index} has DataType {image.data_type}, "
                                 f"{REFUSED.get(image.data_type, 'which nobody has described')}")
    needed = math.prod(image.shape) * np.dtype(PIXELS[image.data_type]).itemsize
    if image.data.n_bytes != needed:
        raise FormatError(f"{path}: image {image.index} has {image.data.n_bytes} bytes of pixels; "
                          f"expected {needed} for shape {image.shape} of {image.dtype}")
    if len(image.shape) < 2 or len(image.shape) > 4:
        what = "a single spectrum" if len(image.shape) == 1 else f"an image of {len(image.shape)} axes"
        raise UnsupportedFeature(f"{path}: image {image.index} is {what}, of shape {image.shape}; expected 2 to 4 axes")
    return image


def _stack_image(path: str, images: list[Image], dataset_index: int | None) -> Image:
    """The image of a file of a list."""
    image = _choose(path, images, dataset_index)
    if len(image.shape) > 3 or _is_spectrum_image(image):
        raise UnsupportedFeature(f"{path}: image {image.index} is a scan of shape {image.shape}; a list of files takes images and stacks "
                                 "of images, open this one alone")
    return image


def _listed(images: Sequence[Image]) -> str:
    return ", ".join(map(str, images))


def _others(images: list[Image], image: Image) -> list[str]:
    """A note on the images that are not used."""
    if len(images) == 1:
        return []
    return [f"the file has {len(images)} images, {_listed(images)}; image {image.index} is used, dataset_index chooses another"]


# -- which axes are the scan -------------------------------------------------------------------------------------------


def _is_spectrum_image(image: Image) -> bool:
    return len(image.shape) == 3 and image.get("ImageTags", "Meta Data", "Format") == "Spectrum image"


def _order(path: str, image: Image, force_c_order: bool, notes: list[str]) -> tuple[int, bool]:
    """Axes of the detector, and whether navigation is stored fastest."""
    spectra = _is_spectrum_image(image)
    n_sig = 1 if spectra else 2
    if force_c_order or (len(image.shape) < 4 and not spectra):
        return 2, False
    swapped = image.get("ImageTags", "Meta Data", "Data Order Swapped")
    if isinstance(swapped, str):
        swapped = {"true": True, "1": True, "false": False, "0": False}.get(swapped.strip().lower())
    if swapped is not None:
        return n_sig, not swapped
    if spectra:
        return n_sig, True
    units = [str(image.get("ImageData", "Calibrations", "Dimension", str(k), "Units")).strip().lower() for k in range(4)]
    for fast, slow, strided in ((DETECTOR_UNITS, SCAN_UNITS, False), (SCAN_UNITS, DETECTOR_UNITS, True)):
        if set(units[:2]) <= fast and set(units[2:]) <= slow:
            return n_sig, strided
    sampling = tuple(image.get("ImageTags", "SI", "Acquisition", "Spatial Sampling", f"{name} (pixels)") for name in ("Height", "Width"))
    if (image.shape[:2] == sampling) != (image.shape[2:] == sampling):
        return n_sig, image.shape[2:] == sampling
    notes.append(f"the file does not tell which axes of shape {image.shape} are the scan: the last two are taken; "
                 "force_c_order=True takes them as the detector")
    return n_sig, True


def _titan_x_scan(image: Image, nav: tuple[int, ...]) -> tuple[int, ...]:
    """The scan of a stack if tags of NCEM's TitanX tell one that fits."""
    scan = tuple(integer(image.get("ImageTags", "4D STEM Tags", f"Scan shape {axis}")) for axis in "YX")
    known = tuple(n for n in scan if n is not None and n > 0)
    return known if len(known) == 2 and len(image.shape) == 3 and math.prod(known) == math.prod(nav) else nav


def _metadata(version: int, image: Image, n_sig: int, strided: bool) -> dict[str, Any]:
    """What the file says, and its calibrations, slowest axis first."""
    axes = []
    for k, size in enumerate(reversed(image.shape)):
        origin, scale, unit = (image.get("ImageData", "Calibrations", "Dimension", str(k), name) for name in ("Origin", "Scale", "Units"))
        known = isinstance(origin, float) and isinstance(scale, float)
        axis = {"delta": scale, "first": 0.0 - origin * scale} if known else {}
        axes.append({"size": size, **axis, **({"unit": unit} if unit else {})})
    axes.reverse()
    cut = n_sig if strided else len(axes) - n_sig
    nav_axes, sig_axes = (axes[cut:], axes[:cut]) if strided else (axes[:cut], axes[cut:])
    said = {key: value for key, path in METADATA.items() if (value := image.get(*path)) not in (None, "")}
    return {"dm_version": version, "dataset_index": image.index, "dtype_on_disk": image.dtype.str, "shape": image.shape,
            "nav_axes": nav_axes, "sig_axes": sig_axes, **said}


class DMDataSet(DataSet):
    """DM3 and DM4 files: a list of them, or one with a stack or a 4D scan.

    Parameters
    ----------
    files : list of str, or str
        Files in the order of their frames, each an image or a stack of images; or one file.
    scan_size
        Former name of `nav_shape`.
    same_offset : bool
        All files of the list are laid out like the first: read no other header.
    nav_shape : tuple of int, optional
        Scan shape, slowest axis first. Default: that of the file; a line for a list of files.
    sig_shape : tuple of int, optional
        Another shape for the pixels of a frame, in their order; not where navigation is stored fastest.
    sync_offset : int
        Frames to skip at the start; negative: blank frames to insert.
    io_backend
        How to read; None lets gpuio choose.
    path : str, optional
        Another name of `files`, for one file.
    dataset_index : int, optional
        Which image of the file, previews counted; None: the one with the most axes, the largest of these.
    force_c_order : bool
        Take the two fastest axes of a file as the detector's, whatever it says.

    Examples
    --------
    >>> ds = gpuio.load("dm", files=["/data/0001.dm4", "/data/0002.dm4"])
    >>> ds = gpuio.load("dm", path="/data/scan.dm4")
    """

    format = "dm"

    def __init__(self, files: Any = None, scan_size: Any = None, same_offset: bool = False, nav_shape: Any = None, sig_shape: Any = None,
                 sync_offset: int = 0, io_backend: Any = None, *, path: Any = None, dataset_index: int | None = None,
                 force_c_order: bool = False) -> None:
        super().__init__(io_backend=io_backend)
        if (files is None) == (path is None):
            raise DataSetException("expected files=[...], DM3 or DM4 files in the order of their frames, or path=, one file; "
                                   + ("neither is given" if path is None else "both are given"))
        given = path if files is None else files
        # A list of one file is that file: a scan in it is no stack of images.
        try:
            names = [os.fsdecode(name) for name in ([given] if isinstance(given, (str, bytes, os.PathLike)) else given)]
        except TypeError:
            raise DataSetException(f"files is {given!r}; expected a list of paths, or one path") from None
        self._path = names[0] if len(names) == 1 else names
        self._same_offset = same_offset
        self._nav_shape = nav_or_sig_shape(renamed("scan_size", scan_size, "nav_shape", nav_shape), "nav_shape")
        self._sig_shape = nav_or_sig_shape(sig_shape, "sig_shape")
        self._sync_offset = sync(sync_offset)
        self._dataset_index, self._force_c_order = dataset_index, force_c_order

    def _parse(self, source: Source) -> Layout:
        if isinstance(self._path, str):
            return parse(source, self._path, dataset_index=self._dataset_index, force_c_order=self._force_c_order)
        return parse_stack(source, self._path, same_offset=self._same_offset, dataset_index=self._dataset_index)

    @classmethod
    def sniff(cls, head: bytes, path: str) -> bool:
        """Whether a file beginning with `head` is made of DigitalMicrograph tags."""
        return sniff(head, path)

    @classmethod
    def get_supported_extensions(cls) -> set[str]:
        """Extensions in lower case, without dot."""
        return set(FORMATS["dm"].extensions)

    @classmethod
    def get_msg_converter(cls) -> type[MessageConverter]:
        """Of messages of type ``DM``."""
        return _DMMessages


_SCHEMA = {
    **message_schema("DM", {"files": {"type": "array", "items": {"type": "string"}}, "same_offset": {"type": "boolean"}}, required=()),
    "oneOf": [{"required": ["path"]}, {"required": ["files"]}],
}


class _DMMessages(MessageConverter):
    """Messages of type ``DM``: with one `path` or a list of `files`."""

    SCHEMA = _SCHEMA
