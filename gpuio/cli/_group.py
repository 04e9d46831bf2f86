"""How commands end: results and progress apart, errors of one line, exit codes."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from gpuio.cli._output import printable
from gpuio.errors import GpuioError

#: Set to anything but 0 to see tracebacks.
DEBUG_VARIABLE = "GPUIO_DEBUG"
#: Compiling is worth a word if it takes longer.
PATIENCE_SECONDS = 0.3


class Commands(click.Group):
    """A group whose errors are one line each."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, complete_var: str | None = None,
             standalone_mode: bool = True, **extra: Any) -> Any:
        """Run, report, exit. With `standalone_mode` off, errors are left to the caller, as click has it."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            with warnings.catch_warnings(), patience():
                warnings.showwarning = _show_warning
                result = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.UsageError as e:
            command = e.ctx.command_path if e.ctx else "gpuio"
            _fail(f"{e.format_message()} (see '{command} --help')", 2)
        except click.ClickException as e:
            _fail(e.format_message(), e.exit_code)
        except click.Abort:
            _fail("interrupted", 130)
        except Exception as e:
            if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
                raise
            _fail(describe(e), 1)
        sys.exit(result if isinstance(result, int) else 0)


def describe(error: Exception) -> str:
    """An exception as one line for a user."""
    if isinstance(error, OSError) and not isinstance(error, GpuioError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    elif isinstance(error, (GpuioError, ValueError, OSError, MemoryError)):
        text = str(error) or type(error).__name__
    else:
        text = f"{type(error).__name__}: {error} (this is a fault of gpuio; {DEBUG_VARIABLE}=1 shows where)"
    return printable(" ".join(text.split()))


@contextmanager
def patience() -> Iterator[None]:
    """Say once, to somebody who looks at stderr, that something is compiled, if it takes a moment."""
    from gpuio import engine

    told = False

    def tell() -> None:
        nonlocal told
        if not told and sys.stderr.isatty():
            click.echo("compiling for this machine; it is kept, later runs start at once", err=True)
        told = True

    @contextmanager
    def on_compile(what: str) -> Iterator[None]:
        timer = threading.Timer(PATIENCE_SECONDS, tell)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    before, engine.on_compile = engine.on_compile, on_compile
    try:
        yield
    finally:
        engine.on_compile = before


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"warning: {printable(' '.join(str(message).split()))}", err=True)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)
