"""``gpuio bench``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from gpuio.cli._options import device_option, format_arguments, parameter_option, parameters_as_arguments, threads_option
from gpuio.cli._output import plain, printable, progress_bar


@click.command()
@click.argument("path", metavar="[FILE]", type=click.Path(), required=False)
@click.option("-f", "--format", "format_name", default="auto", metavar="NAME",
              help="Format of FILE; without FILE, of the scan to make.  [default: as FILE says; npy]")
@parameter_option("Parameter of the format; without FILE, of its writer, such as kind=R12; may be repeated.")
@click.option("--size", default="1 GiB", show_default=True, metavar="SIZE", help="Packed bytes to make, or to use of FILE at most.")
@device_option
@click.option("--transport", metavar="NAME", help="buffered, mmap, direct or gds; default: as gpuio chooses.")
@click.option("--cold/--warm", "cold", default=False, help="Take FILE out of the page cache each time, or have it there.  [default: warm]")
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True, metavar="N", help="Rounds that count.")
@threads_option
@click.option("--peers", is_flag=True, help="Read the whole file through other libraries as well.")
@click.option("--sweep", is_flag=True, help="Try other transports, threads, tiles and blocks, and recommend.")
@click.option("--write-config", is_flag=True, help="Write what --sweep recommends to the config file, for all streams to come.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True), metavar="OUT",
              help="Write the report as JSON; - is stdout.")
@click.option("--html", "html_path", type=click.Path(dir_okay=False, path_type=Path), metavar="OUT", help="Write the report as a page.")
def bench(path: str | None, format_name: str, parameters: tuple[tuple[str, Any], ...], size: str, device: str | None, transport: str | None,
          cold: bool, repeats: int, threads: int | None, peers: bool, sweep: bool, write_config: bool, json_path: Path | None,
          html_path: Path | None) -> None:
    """Measure each stage beside the limits of this machine.

    Without FILE, on a scan that is made for it.
    """
    from gpuio.bench import report as measuring
    from gpuio.bench import text

    if write_config and not sweep:
        raise click.UsageError("--write-config needs --sweep")
    file = _config_file() if write_config else ""
    arguments = format_arguments(format_name, parameters) if path is not None else dict(parameters)
    request = measuring.Request(path=path, format=format_name, parameters=arguments, size=size, device=device, transport=transport,
                                cold=cold, repeats=repeats, threads=threads, peers=peers, sweep=sweep)
    with progress_bar("bench") as progress, parameters_as_arguments(path or format_name):
        found = plain(measuring.run(request, progress))
    if html_path is not None:
        from gpuio.bench import html

        html_path.write_text(html.page(found), encoding="utf-8")
    as_json = json.dumps(found, indent=1, allow_nan=False)
    if json_path is not None and str(json_path) != "-":
        json_path.write_text(as_json + "\n", encoding="utf-8")
    if write_config:
        _write_config(found["sweep"]["recommended"], file)
    if str(json_path) == "-":
        click.echo(as_json)
    else:
        for line in text.lines(found):
            click.echo(printable(line))


def _config_file() -> str:
    """The file that streams look into, before anything is measured for it. If it is named and not there, it is made: streams want it."""
    from gpuio import config

    file = config.path()
    if file is None:
        raise click.ClickException(f"{config.VARIABLE} is empty, so there is no config file to write to")
    if os.environ.get(config.VARIABLE) and not os.path.exists(file):
        config.write(config.StreamSettings(), file)
        config.forget()
    return file


def _write_config(recommended: dict[str, Any], file: str) -> None:
    """Put settings into the file; say so on stderr."""
    from gpuio import config

    if not recommended:
        click.echo("no setting was written: what gpuio chooses by itself is as fast", err=True)
    else:
        config.write(config.StreamSettings(**recommended), file)
        click.echo(f"written to {printable(file)}", err=True)
