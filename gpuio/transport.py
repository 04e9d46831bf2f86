"""How a stream reads where nobody said how: by facts about the files of a layout."""

from __future__ import annotations

from gpuio.io import choose
from gpuio.io.choice import Choice
from gpuio.layout import Layout
from gpuio.sizing import frame_bytes, in_place


def choose_transport(layout: Layout, device: str) -> Choice:
    """The backend for a layout's files as they are now, whether these have to come from storage, and why this backend.

    Parameters
    ----------
    device
        Where pixels are decoded.
    """
    on_device = device != "cpu"
    if layout.chunks is not None:
        return choose(layout.chunks.files, layout.chunks.sizes, on_device=on_device, against="frames are stored in chunks")
    if layout.sparse is not None:
        return choose(layout.paths, [None] * len(layout.paths), on_device=on_device, against="frames are sparse")
    files = layout.numbered_files()[0] if layout.strided is None else []
    return choose([f.path for f in files], [f.size for f in files], in_place=not on_device and in_place(layout), on_device=on_device,
                  frame_bytes=frame_bytes(layout))
