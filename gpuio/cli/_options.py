"""What commands take: parameters, formats, devices, and the data sets that these describe."""

from __future__ import annotations

import ast
import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import gpuio
from gpuio import formats as registry
from gpuio.errors import DataSetException

if TYPE_CHECKING:
    from gpuio.dataset import DataSet


class Parameter(click.ParamType):
    """``key=value``: numbers, tuples (``2,4``), true, false, none and quoted text as in Python, anything else as it stands."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """A pair of name and Python value."""
        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key.isidentifier():
            self.fail(f"{value!r} is not of the form key=value", param, ctx)
        parsed = _python_value(text.strip())
        if key.endswith("_shape") and isinstance(parsed, int) and not isinstance(parsed, bool):
            parsed = (parsed,)
        if key == "dtype":
            Dtype().convert(parsed, param, ctx)
        return key, parsed


class Dtype(click.ParamType):
    """A dtype that pixels can have, by its name."""

    name = "dtype"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A NumPy dtype."""
        from gpuio.layout import of_numbers

        try:
            return of_numbers(value)
        except TypeError:
            self.fail(f"{value!r} is not a dtype of pixels; expected for example float32 or u2", param, ctx)


class Picture(click.Path):
    """A PNG that can be written: told before hours of reading, not after."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.suffix.lower() != ".png":
            self.fail(f"{path} is not a .png", param, ctx)
        if not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return path


class Intervals(click.ParamType):
    """``y0:y1,x0:x1``; either end may be left out."""

    name = "intervals"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[slice, ...]:
        """One slice an axis."""
        if isinstance(value, tuple):
            return value
        intervals = []
        for text in value.split(","):
            found = re.fullmatch(r"\s*(-?\d*)\s*:\s*(-?\d*)\s*", text)
            if found is None or "-" in found.groups():
                self.fail(f"{value!r} is not of the form Y0:Y1,X0:X1", param, ctx)
            intervals.append(slice(*(int(end) if end else None for end in found.groups())))
        return tuple(intervals)


class Numbers(click.ParamType):
    """``2`` or ``2,3``."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | tuple[int, ...]:
        """A number, or one an axis."""
        if isinstance(value, (int, tuple)):
            return value
        try:
            numbers = tuple(int(text) for text in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a number, or one for each axis", param, ctx)
        return numbers[0] if len(numbers) == 1 else numbers


def _python_value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
    return value if isinstance(value, (int, float, str, tuple)) else text


def parameter_option(what: str) -> Callable[[Any], Any]:
    """The repeatable option ``-p key=value``."""
    return click.option("-p", "--param", "parameters", type=Parameter(), multiple=True, metavar="KEY=VALUE", help=what)


dtype_option = click.option("--dtype", type=Dtype(), metavar="DTYPE", help="Of the pixels that come out; default: native.")
memory_option = click.option("--memory", default=None, metavar="SIZE", help="Memory budget, such as '2 GiB'.")
threads_option = click.option("--threads", type=click.IntRange(min=0), default=None, metavar="N",
                              help="Threads that decode ahead; default: as configured, else 0.")
force_option = click.option("--force", is_flag=True, help="Replace the output if it exists.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON value and nothing else.")


def device_option(command: Any) -> Any:
    """The option ``--device``."""
    return click.option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N; default: GPUIO_DEVICE, else auto.")(command)


def file_options(command: Any) -> Any:
    """What every command that looks into files takes."""
    for option in (
        json_option,
        parameter_option("Parameter of the format, such as nav_shape=256,256 or sync_offset=-3; may be repeated."),
        click.option("-f", "--format", "format_name", default="auto", metavar="NAME", show_default=True,
                     help="Format; files without a header need one (raw)."),
        click.argument("path", metavar="FILE", type=click.Path()),
    ):
        command = option(command)
    return command


def dataset_options(command: Any) -> Any:
    """What every command that decodes a data set takes."""
    return file_options(device_option(command))


def format_arguments(format_name: str, parameters: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Arguments for `gpuio.load` from the options of a command."""
    if format_name not in ("auto", *registry.names()):
        known = ", ".join(name for name, row in registry.FORMATS.items() if row.is_file)
        raise click.BadParameter(f"{format_name!r} is not a format of files; expected one of {known}", param_hint="--format")
    if format_name != "auto" and not registry.FORMATS[format_name].is_file:
        raise click.BadParameter(f"{format_name} is for arrays, not for files; in Python, gpuio.load({format_name!r}, ...)",
                                 param_hint="--format")
    arguments = dict(parameters)
    for name, instead in (("path", "FILE"), ("format", "--format"), ("device", "--device")):
        if name in arguments:
            raise click.UsageError(f"{name} is given as {instead}, not as a parameter")
    if isinstance(arguments.get("io_backend"), str):
        arguments["io_backend"] = io_backend(arguments["io_backend"])
    return arguments


def open_dataset(path: str, format_name: str, device: str | None, parameters: tuple[tuple[str, Any], ...]) -> DataSet:
    """The data set that the options describe."""
    arguments = format_arguments(format_name, parameters)
    with parameters_as_arguments(path):
        if format_name == "auto":
            return gpuio.open(path, device=device, **arguments)
        return gpuio.load(format_name, path=path, device=device, **arguments)


def refuse_existing(path: str | os.PathLike[str], force: bool) -> None:
    """An error if there is something by that name, a link that leads nowhere included, and it is not to be replaced."""
    if os.path.lexists(path) and not force:
        raise FileExistsError(f"{path}: already exists; --force replaces it")


def io_backend(name: str) -> Any:
    """An I/O backend by its id."""
    cls = gpuio.IOBackend.get_cls_by_id(name)
    if cls is None:
        raise click.UsageError(f"{name!r} is not an I/O backend; expected one of {', '.join(gpuio.IOBackend.get_supported())}")
    return cls()


@contextmanager
def parameters_as_arguments(path: str) -> Iterator[None]:
    """Tell about missing and unknown arguments of a call in the words of the command line."""
    try:
        yield
    except TypeError as e:
        for said, meaning in ((r"missing \d+ required .*arguments?: (.+)", "needs"), (r"unexpected keyword argument (.+)", "has no")):
            if found := re.search(said, str(e)):
                raise DataSetException(f"{path}: the format {meaning} {found[1]}; parameters are given as -p key=value") from e
        raise
