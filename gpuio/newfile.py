"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def new_file(path: str) -> Iterator[str]:
    """The name to write a file under; on success it becomes `path`, on any exception it is removed.

    An existing file of that name is replaced in one step, so that readers see the old one or the new one. Errors of the operating
    system name `path`.
    """
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as e:
        if e.errno is not None and e.filename in (None, temporary):
            raise OSError(e.errno, e.strerror, path) from e
        raise
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
