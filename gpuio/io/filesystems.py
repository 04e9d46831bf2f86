"""Where files lie: the file system, and the drive below it, as the system calls them."""

from __future__ import annotations

import os
from functools import lru_cache

#: Links to block devices by their numbers.
_DEVICES = "/sys/dev/block"
#: File systems whose files come over a network.
NETWORK = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs4", "orangefs", "panfs", "smb2", "smb3", "smbfs",
})


@lru_cache(maxsize=256)
def file_system(folder: str) -> str:
    """Name of the file system a folder lies on, as the system calls it; ``unknown`` where it does not say."""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
            entries = [line.split(" ") for line in mounts]
    except OSError:
        return "unknown"
    best, kind = "", "unknown"
    for _, point, name, *_ in entries:
        for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
            point = point.replace(code, character)
        inside = folder == point or folder.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):      # of two at the same place the later one hides the earlier
            best, kind = point, name
    return kind


def drive(path: str) -> str | None:
    """Name of the block device that a file lies on, such as ``nvme0n1``; None where there is none, or the system does not say."""
    try:
        number = os.stat(path).st_dev
        device = os.path.realpath(f"{_DEVICES}/{os.major(number)}:{os.minor(number)}", strict=True)
    except OSError:
        return None
    return os.path.basename(os.path.dirname(device) if os.path.exists(os.path.join(device, "partition")) else device)
