"""How a stream reads where nobody said how: by facts about the files of a layout."""

from __future__ import annotations

from gpuio import config
from gpuio.io import choose
from gpuio.io.backends import IOBackend
from gpuio.io.choice import Choice
from gpuio.layout import Layout
from gpuio.sizing import frame_bytes, in_place

#: More files are read in blocks: small ones would be mapped by the thousand, and Linux lets a process have 65530 mappings.
MAX_MAPPED_FILES = 8192


def choose_transport(layout: Layout, device: str) -> Choice:
    """The backend for a layout's files as they are now, whether these have to come from storage, and why this backend.

    What the user has set for all streams is taken where it can be used.

    Parameters
    ----------
    device
        Where pixels are decoded.
    """
    choice = _by_facts(layout, device != "cpu")
    wish = config.stream().transport
    if wish is None or wish == choice.transport.id:
        return choice
    cls = IOBackend.get_cls_by_id(wish)
    assert cls is not None, "gpuio.config names the transports"
    backend = cls()
    paths = layout.chunks.files if layout.chunks is not None else layout.paths
    if (backend.memory == "device" and device == "cpu") or backend.unavailable(paths[0] if paths else None) is not None:
        return choice
    return choice._replace(transport=backend, reason=f"configured; {choice.reason}")


def _by_facts(layout: Layout, on_device: bool) -> Choice:
    """The same, whatever the user has set."""
    if layout.chunks is not None:
        return choose(layout.chunks.files, layout.chunks.sizes, on_device=on_device, against="frames are stored in chunks")
    if layout.sparse is not None:
        return choose(layout.paths, [None] * len(layout.paths), on_device=on_device, against="frames are sparse")
    files = layout.numbered_files()[0] if layout.strided is None else []
    mappable = not on_device and len(files) <= MAX_MAPPED_FILES and in_place(layout)
    return choose([f.path for f in files], [f.size for f in files], in_place=mappable, on_device=on_device, frame_bytes=frame_bytes(layout))
