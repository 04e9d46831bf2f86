"""EMPAD: frames of the Cornell / Thermo Fisher EMPAD of the first generation.

A data set is a ``.raw`` file of frames and an ``.xml`` file that names it. The raw file has no header and no magic number; its size
is a multiple of 66560 bytes.

=====================  =============  ===================================================================================
byte                   type           meaning
=====================  =============  ===================================================================================
66560 i                f32 LE         frame i: 128 rows of 128 pixels, 65536 bytes
66560 i + 65536        1024 bytes     two further rows, not documented and left out
=====================  =============  ===================================================================================

The XML has the root element ``root``, whose attribute ``name`` is that of the acquisition, and

=====================================  ===================================================================================
element                                meaning
=====================================  ===================================================================================
``raw_file/@filename``                 the data file, relative to the XML's folder
``type``                               ``scan`` or ``series``; missing in newer versions
``count``, or in                       frames of a series
``scan_parameters`` ``series_count``
``pix_x``, ``pix_y``                   scan shape, in old versions (software 0.51)
``scan_parameters[@mode]``             ``scan_resolution_x``, ``scan_resolution_y``, ``scan_size`` (share of the field of view) for the
                                       modes ``acquire`` and ``search``
``timestamp/@isoformat``               start of the acquisition
``software_version``                   0.51 ... 1.2.2 are known
``exposure_time``,                     without a unit; milliseconds by the habit of the software, which nobody has checked
``post_exposure_time``
``background_image``                   ``@absolute_filename``: subtracted while recording, as far as is known
``iom_measurements``                   the microscope; names of its elements differ by version
=====================================  ===================================================================================

Quirks:

- No single number is reliable: files recorded in search mode state the scan shape of acquire mode (LiberTEM issue 1617, RosettaSciIO
  issue 513), and one recorded XML states 4 x 4 in ``pix_*`` and the file's name, 128 x 128 and 64 x 64 elsewhere. So the scan shapes that
  the XML and the name of the raw file (``scan_x<X>_y<Y>.raw``, ``series_x<N>.raw``) offer are tried against the size of the file.
- The name in the XML may have a folder of another machine, in either style: only its last part counts, beside the XML.
- Pixels may be negative or NaN: they are passed on as they are.
- EMPAD-G2 files hold packed integers; they cannot be told apart by their size.

Sources: XML files recorded with software 0.51 and 1.2.2 in the test data of RosettaSciIO; issues of LiberTEM and RosettaSciIO.
"""

from __future__ import annotations

import math
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from gpuio.dataset import DataSet
from gpuio.errors import DataSetException, FormatError, TruncatedFile
from gpuio.fileset import File, FileSet
from gpuio.formats._arguments import nav_or_sig_shape, renamed, sync
from gpuio.formats._siblings import split_name
from gpuio.formats._xml import read_xml
from gpuio.layout import Encoding, Layout, plain_pieces
from gpuio.source import Source

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

SIG_SHAPE = (128, 128)
PIXEL = "<f4"
FRAME_BYTES = 65536
FOOTER_BYTES = 1024
STRIDE = FRAME_BYTES + FOOTER_BYTES
#: For ``gpuio check``.
COUNTED_BY_SIZE = True
RAW_NAME = re.compile(r"(?:scan|series)_(?:[0-9]+_)*x([0-9]{1,9})(?:_y([0-9]{1,9}))?")
#: XML files of a folder that are searched for the one that names a raw file.
MAX_SEARCHED = 256
#: An element that is the XML's, and no other file's.
ELEMENTS = re.compile(rb"<(raw_file|scan_parameters|background_image|camserver_parameters|iom_measurements)[\s/>]")



class Candidate(NamedTuple):
    """A scan shape, and who says so."""

    nav_shape: tuple[int, ...]
    origin: str

    def __str__(self) -> str:
        return f"{' x '.join(map(str, self.nav_shape))} ({self.origin})"


def sniff(head: bytes, path: str) -> bool:
    """Whether a file that begins with `head` is the XML of a recording, or has a name that the software gives to raw files."""
    _, stem, extension = split_name(path)
    if extension == ".xml":
        return re.search(rb"<root[\s>]", head) is not None and ELEMENTS.search(head) is not None
    return extension == ".raw" and RAW_NAME.fullmatch(stem) is not None


def parse(source: Source, path: str, *, nav_shape: tuple[int, ...] | None = None) -> Layout:
    """Read the XML, and find out the shape of the scan.

    Parameters
    ----------
    source
        Where to read.
    path
        The ``.xml`` or the ``.raw`` file. From a ``.raw``, the ``.xml`` that names it is looked for in its folder.
    nav_shape
        The user's scan shape. Without it, one that the files offer has to fit the size of the raw file.

    Raises
    ------
    FormatError, TruncatedFile
        The XML is damaged, unsafe or of another kind; the raw file is missing or holds no frame; no scan shape fits.
    DataSetException
        Neither XML nor name tell a scan shape, and none is given.
    OSError
        A file is missing or may not be read.
    """
    raw, xml, root = _find(source, path)
    notes: list[str] = []
    size = source.size(raw)
    n_frames, rest = divmod(size, STRIDE)
    if not n_frames:
        raise TruncatedFile(f"{raw}: {size} bytes hold no complete frame; one has {STRIDE} bytes")
    if rest:
        notes.append(f"{raw}: the last {rest} bytes are no whole frame of {STRIDE} and were left out")
    candidates = _candidates(root, xml, raw)
    fitting = next((c for c in candidates if math.prod(c.nav_shape) == n_frames), None)
    if nav_shape is None:
        if fitting is None:
            raise _misfit(xml, raw, n_frames, rest, candidates)
        nav_shape = fitting.nav_shape
        others = [c for c in candidates if math.prod(c.nav_shape) != n_frames]
        if others:
            notes.append(f"the raw file holds {n_frames} frames: read as {fitting}, not as {', '.join(map(str, others))}")
    file = File(raw, 0, n_frames, PIXEL, SIG_SHAPE, frame_footer=FOOTER_BYTES, size=size)
    return Layout(
        format="empad", parts=(FileSet([file], frame_footer_bytes=FOOTER_BYTES),), encoding=Encoding.of(PIXEL),
        pieces=plain_pieces(SIG_SHAPE, FRAME_BYTES // SIG_SHAPE[0]), sig_shape=SIG_SHAPE, nav_shape=nav_shape, image_count=n_frames,
        metadata={} if root is None else _metadata(root), notes=tuple(notes),
    )


# -- which files -----------------------------------------------------------------------------------------------------


def _find(source: Source, path: str) -> tuple[str, str | None, Element | None]:
    """Path of the raw file, path and root element of the XML; the latter None if there is none."""
    extension = split_name(path)[2]
    if extension == ".xml":
        root = read_xml(source, path)
        return _raw_path(source, path, root), path, root
    if extension != ".raw":
        raise FormatError(f"{path}: expected an .xml or .raw file")
    source.size(path)
    return path, *_find_xml(source, path)


def _raw_name(root: Element) -> str:
    """Last part of the name that the XML gives its raw file; empty if there is none."""
    element = root.find("raw_file")
    name = re.split(r"[/\\]", "" if element is None else element.get("filename", "").strip())[-1]
    return "" if name in (".", "..") or "\0" in name else name


def _raw_path(source: Source, xml: str, root: Element) -> str:
    """The raw file that an XML names, which has to be beside it."""
    name = _raw_name(root)
    if not name:
        raise FormatError(f"{xml}: has no element raw_file with a filename; expected the XML of an EMPAD recording")
    folder = os.path.dirname(xml)
    raw = os.path.join(folder, name)
    try:
        source.size(raw)
    except OSError as error:
        raise FormatError(f"{xml}: could not open file {raw}, which it names ({error.strerror or error})"
                          + _renamed_hint(source, folder, _candidates(root, xml, raw))) from error
    return raw


def _renamed_hint(source: Source, folder: str, candidates: list[Candidate]) -> str:
    """A clause for messages: raw files of the folder whose size fits a scan shape of the XML."""
    sizes = {math.prod(c.nav_shape) * STRIDE for c in candidates}
    found = []
    for name in source.listdir(folder):
        if split_name(name)[2] == ".raw":
            try:
                if source.size(os.path.join(folder, name)) in sizes:
                    found.append(name)
            except (OSError, DataSetException):
                continue
    if len(found) != 1:
        return "; if it was renamed, open the .raw file itself with nav_shape=(y, x)"
    return f"; if it was renamed: {os.path.join(folder, found[0])} has the right size, open it with nav_shape=(y, x)"


def _find_xml(source: Source, raw: str) -> tuple[str | None, Element | None]:
    """The first XML of the folder that names a raw file; others are of no interest, whatever they hold."""
    folder, name = os.path.split(raw)
    try:
        names = [other for other in source.listdir(folder) if split_name(other)[2] == ".xml"]
    except OSError:
        return None, None
    for other in names[:MAX_SEARCHED]:
        xml = os.path.join(folder, other)
        try:
            root = read_xml(source, xml)
        except (OSError, DataSetException):
            continue
        if _raw_name(root) == name:
            return xml, root
    return None, None


# -- the shape of the scan -------------------------------------------------------------------------------------------


def _candidates(root: Element | None, xml: str | None, raw: str) -> list[Candidate]:
    """Scan shapes in the order of trust; entries that are no positive numbers are left out.

    Raises
    ------
    FormatError
        The XML is of a type that is not known.
    """
    found: list[Candidate] = []

    def offer(origin: str, *texts: str | None) -> None:
        shape: tuple[int, ...] = tuple(int(text) for text in texts if text is not None and re.fullmatch("[0-9]{1,9}", text.strip()))
        if len(shape) == len(texts) and all(shape):
            found.append(Candidate(shape, origin))

    kind = None if root is None else root.findtext("type")
    if kind not in (None, "scan", "series"):
        raise FormatError(f"{xml}: type is {kind!r}; expected 'scan' or 'series'")
    if root is not None and kind == "series":
        _offer_series(root, offer)
    if root is not None:
        offer("pix_y, pix_x", root.findtext("pix_y"), root.findtext("pix_x"))
    name = RAW_NAME.fullmatch(split_name(raw)[1])
    if name is not None:
        offer("name of the raw file", *((name[2], name[1]) if name[2] else (name[1],)))
    if root is not None:
        for mode in ("acquire", "search"):
            for scan in root.findall("scan_parameters"):
                if scan.get("mode") == mode:
                    offer(f"scan_resolution of {mode}", scan.findtext("scan_resolution_y"), scan.findtext("scan_resolution_x"))
    if root is not None and kind is None:
        _offer_series(root, offer)          # newer versions do not say which it is
    return found


def _offer_series(root: Element, offer: Any) -> None:
    offer("count", root.findtext("count"))
    offer("series_count", root.findtext("scan_parameters/series_count"))


def _misfit(xml: str | None, raw: str, n_frames: int, rest: int, candidates: list[Candidate]) -> DataSetException:
    """The error where no scan shape fits."""
    holds = f"{raw}: holds {n_frames} frames" + (f" and {rest} bytes" if rest else "")
    if not candidates:
        who = f"{xml} tells no scan shape" if xml else "no .xml of the folder names this file, and its name tells no scan shape"
        return DataSetException(f"{holds}; {who}: pass nav_shape, such as nav_shape=({n_frames},)")
    return FormatError(f"{holds}; expected one of {', '.join(map(str, candidates))}: pass nav_shape to load it nevertheless")


# -- the rest --------------------------------------------------------------------------------------------------------

#: Numbers of the XML: path of the element, key in the metadata.
NUMBERS = {
    "exposure_time": "exposure_time", "post_exposure_time": "post_exposure_time",
    "temperature_controller/temperature_value": "temperature_C", "grid_measurements/bias_voltage": "bias_voltage_V",
}
#: The microscope's, of either generation.
MEASUREMENTS = {
    "source.get_voltage": "high_voltage_V", "high_voltage": "high_voltage_V", "optics.get_cameralength": "camera_length_m",
    "nominal_camera_length": "camera_length_m", "scan_rotation": "scan_rotation", "spot_size_index": "spot_size_index",
}


def _metadata(root: Element) -> dict[str, Any]:
    """What the XML says about the experiment; what it does not say is left out."""
    metadata: dict[str, Any] = {"name": root.get("name")}
    metadata |= {key: root.findtext(key) for key in ("type", "software_version")}
    timestamp, background = root.find("timestamp"), root.find("background_image")
    metadata["time_local"] = None if timestamp is None else timestamp.get("isoformat")
    metadata["background_image"] = None if background is None else background.get("absolute_filename", "").strip()
    metadata |= {key: _number(root.findtext(path)) for path, key in NUMBERS.items()}
    for scan in root.findall("scan_parameters"):
        if scan.get("mode") in ("acquire", "search"):
            metadata[f"scan_{scan.get('mode')}"] = {child.tag: _number(child.text) for child in scan}
    further: dict[str, Any] = {}
    measurements = root.find("iom_measurements")
    for child in [] if measurements is None else measurements:
        if child.tag in MEASUREMENTS:
            metadata[MEASUREMENTS[child.tag]] = _number(child.text)
        elif child.tag == "optics.get_full_scan_field_of_view":
            metadata["full_field_of_view_m"] = [_number(text) for text in re.findall(r"[-+.0-9eE]+", child.text or "")]
        elif child.tag == "full_scan_field_of_view":
            metadata["full_field_of_view_m"] = [_number(child.findtext("x")), _number(child.findtext("y"))]
            metadata["field_of_view_scale_factor"] = _number(child.findtext("scale_factor"))
        else:
            further[child.tag] = _number(child.text)
    metadata["iom_measurements"] = further
    return {key: value for key, value in metadata.items() if value not in (None, "", {})}


def _number(text: str | None) -> float | int | str | None:
    """A text as a number, if it is one."""
    if text is None:
        return None
    text = text.strip()
    if re.fullmatch(r"[-+]?[0-9]{1,18}", text):
        return int(text)
    return float(text) if re.fullmatch(r"[-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]{1,3})?|[-+]?[0-9]+\.", text) else text


class EMPADDataSet(DataSet):
    """EMPAD data: a ``.raw`` file and the ``.xml`` that names it.

    Parameters
    ----------
    path : str
        The ``.xml`` or the ``.raw`` file. If the raw file was renamed, the XML does not lead to it: open it itself.
    scan_size
        Deprecated name of `nav_shape`.
    nav_shape : tuple of int, optional
        (y, x), or (frames,) of a series. Default: what the XML and the name of the raw file offer, and the size of the file
        confirms. A scan that was interrupted needs it; positions without a frame are blank.
    sig_shape : tuple of int, optional
        Another shape for the 16384 pixels of a frame, in their order. Default (128, 128).
    sync_offset : int
        Frames to skip at the start; negative: blank frames to insert.
    io_backend
        How to read; None lets gpuio choose.

    Examples
    --------
    >>> ds = gpuio.load("empad", path="/path/to/acquisition_12.xml")
    >>> ds = gpuio.load("empad", path="/path/to/renamed.raw", nav_shape=(256, 256))
    """

    format = "empad"

    def __init__(self, path: str, scan_size: Any = None, nav_shape: Any = None, sig_shape: Any = None, sync_offset: int = 0,
                 io_backend: Any = None) -> None:
        super().__init__(io_backend=io_backend)
        self._path = os.fspath(path)
        self._nav_shape = nav_or_sig_shape(renamed("scan_size", scan_size, "nav_shape", nav_shape), "nav_shape")
        self._sig_shape = nav_or_sig_shape(sig_shape, "sig_shape")
        self._sync_offset = sync(sync_offset)

    def _parse(self, source: Source) -> Layout:
        return parse(source, self._path, nav_shape=self._nav_shape)

    @classmethod
    def sniff(cls, head: bytes, path: str) -> bool:
        return sniff(head, path)

    @classmethod
    def get_supported_extensions(cls) -> set[str]:
        return {"xml", "raw"}
