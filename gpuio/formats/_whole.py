"""How many frames of a file are whole, where its header says how many there ought to be."""

from __future__ import annotations

from gpuio.errors import TruncatedFile

#: More frames missing than this and than there are: the number in the header is damage, not a recording cut short.
LARGE_HOLE = 1 << 20


def whole_frames(path: str, announced: int, there: int, stride: int, notes: list[str]) -> int:
    """Frames that are whole; those missing are blank, which is noted.

    Parameters
    ----------
    announced
        Frames that the header announces.
    there
        Bytes of the file from its first frame on; may be negative.
    stride
        Bytes from one frame to the next, all of them needed.
    notes
        Gets a sentence if frames are missing or bytes left over.

    Raises
    ------
    TruncatedFile
        Not one frame is whole, or so many are missing that their number cannot be right.
    """
    there = max(0, there)
    whole = min(announced, there // stride)
    found = f"{there} bytes hold {whole} whole frames of {stride} bytes; the header announces {announced}"
    if not whole or announced - whole > max(whole, LARGE_HOLE):
        raise TruncatedFile(f"{path}: {found}")
    if whole < announced:
        notes.append(f"the file is truncated: {found}, the missing ones are blank")
    elif there > announced * stride:
        notes.append(f"{there - announced * stride} bytes follow the frames and are not used")
    return whole
