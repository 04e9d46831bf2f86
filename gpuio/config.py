"""What a user has set for all streams on a machine: a TOML file, which environment variables override, and explicit arguments those.

The file is the one that GPUIO_CONFIG names (empty: none), else ``~/.config/gpuio/config.toml`` if it is there. It has one table:

====================  ====================  ======================================================================================
key of ``[stream]``   variable              meaning
====================  ====================  ======================================================================================
``threads``           GPUIO_THREADS         threads that decode ahead, and add; 0: the caller's
``memory``            GPUIO_MEMORY          budget of staging and output: bytes, or a text such as "2 GiB"
``tile_bytes``        GPUIO_TILE_BYTES      output of a tile, at most
``block_bytes``       GPUIO_BLOCK_BYTES     packed bytes read at a time, where frames are neither mapped nor stored in chunks
``transport``         GPUIO_TRANSPORT       buffered, mmap, direct or gds, where it can be used
====================  ====================  ======================================================================================

Settings are choices of speed and memory; pixels never depend on them. They are looked up again when `LIFETIME_SECONDS` have passed, so
that asking costs nothing and a change needs no new process.
"""

from __future__ import annotations

import math
import os
import re
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpuio.errors import ConfigError
from gpuio.newfile import new_file

#: Path of the file; empty: there is none.
VARIABLE = "GPUIO_CONFIG"
TABLE = "stream"
LIFETIME_SECONDS = 1.0
TRANSPORTS = ("buffered", "mmap", "direct", "gds")


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What is set; None: nothing, the stream chooses."""

    threads: int | None = None
    memory: int | None = None
    tile_bytes: int | None = None
    block_bytes: int | None = None
    transport: str | None = None

    def set_ones(self) -> dict[str, int | str]:
        """By their keys, those that are set."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def bytes_of(size: int | float | str) -> int:
    """Bytes from a number or a text such as ``"2 GiB"``, ``"500 MB"``.

    Raises
    ------
    ValueError
        Not a positive, finite size.
    """
    number: Any = size
    if isinstance(size, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kMGT]?)(i?)B?\s*", size, flags=re.IGNORECASE)
        if match is None:
            raise ValueError(f"memory size {size!r} is not understood; expected for example '2 GiB'")
        digits, prefix, binary = match.groups()
        number = float(digits) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " ")
    if not 0 < number < math.inf:
        raise ValueError(f"memory size {size!r} is not positive and finite")
    return int(number)


def _threads(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)) or not str(value).strip().isdecimal():
        raise ValueError(f"{value!r} is not a number of threads; expected 0 or more")
    return int(value)


def _size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{value!r} is not a size; expected bytes, or for example '2 GiB'")
    return bytes_of(value)


def _transport(value: Any) -> str:
    if value not in TRANSPORTS:
        raise ValueError(f"{value!r} is not a transport; expected one of {', '.join(TRANSPORTS)}")
    return str(value)


#: Until when settings hold, and which.
_known: tuple[float, StreamSettings] | None = None

#: How each key is understood.
KEYS: dict[str, Callable[[Any], Any]] = {
    "threads": _threads, "memory": _size, "tile_bytes": _size, "block_bytes": _size, "transport": _transport,
}
VARIABLES = {key: f"GPUIO_{key.upper()}" for key in KEYS}


def stream() -> StreamSettings:
    """What holds now, or held less than `LIFETIME_SECONDS` ago.

    Raises
    ------
    ConfigError
        The file that GPUIO_CONFIG names is not there, is no TOML, or holds something that is not a setting; or a variable does.
    """
    global _known
    now = time.monotonic()
    if _known is None or now > _known[0]:
        _known = now + LIFETIME_SECONDS, _looked_up()
    return _known[1]


def forget() -> None:
    """Have settings looked up at once when they are next asked for."""
    global _known
    _known = None


def path() -> str | None:
    """The file that is looked for; None: none is."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return named or None
    return os.path.join(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), "gpuio", "config.toml")


def write(settings: StreamSettings, file: str) -> None:
    """Set in a file what is set here, and leave its other settings as they are; comments are lost. The file is replaced as a whole.

    Raises
    ------
    ConfigError
        There is a file, and it is broken.
    OSError
        It cannot be written.
    """
    before = _read(file) if os.path.exists(file) else {}
    lines = [f"[{TABLE}]"]
    for key, value in {**before, **settings.set_ones()}.items():
        lines.append(f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}")
    os.makedirs(os.path.dirname(os.path.abspath(file)), exist_ok=True)
    with new_file(file) as temporary:
        Path(temporary).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _looked_up() -> StreamSettings:
    file, named = path(), bool(os.environ.get(VARIABLE))
    found = _read(file) if file is not None and (named or os.path.exists(file)) else {}
    for key, name in VARIABLES.items():
        if text := os.environ.get(name):
            found[key] = _understood(key, text, f"{name} in the environment")
    return StreamSettings(**found)


def _read(file: str) -> dict[str, Any]:
    """Settings of a file."""
    try:
        with open(file, "rb") as stream:
            tables: Mapping[str, Any] = tomllib.load(stream)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not a TOML file: {error}") from error
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; it is the file of settings, which {VARIABLE} can name") from error
    for name, table in tables.items():
        if name != TABLE or not isinstance(table, dict):
            raise ConfigError(f"{file}: {name!r} is unknown; expected a table [{TABLE}] and nothing else")
    found = tables.get(TABLE, {})
    for key in found:
        if key not in KEYS:
            raise ConfigError(f"{file}: key {key!r} of [{TABLE}] is unknown; expected one of {', '.join(KEYS)}")
    return {key: _understood(key, value, f"{file}: {key}") for key, value in found.items()}


def _understood(key: str, value: Any, where: str) -> Any:
    try:
        return KEYS[key](value)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
