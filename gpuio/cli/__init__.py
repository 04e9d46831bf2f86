"""The command ``gpuio``.

Results go to stdout, everything else (progress, errors) to stderr. With ``--json`` stdout holds one JSON value and nothing
else. Exit code 0: done; 1: it failed, with one line ``error: ...`` (or ``check`` has found errors); 2: the command line was wrong; 130:
interrupted. A traceback is shown only with GPUIO_DEBUG=1.

Only public names of gpuio are used here, and imported inside the commands, so that ``gpuio --help`` starts at once.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import gpuio
from gpuio import formats as registry
from gpuio.cli._bench import bench
from gpuio.cli._group import Commands, describe, patience
from gpuio.cli._options import (
    Intervals,
    Numbers,
    Parameter,
    Picture,
    dataset_options,
    device_option,
    dtype_option,
    file_options,
    force_option,
    format_arguments,
    json_option,
    memory_option,
    open_dataset,
    parameter_option,
    parameters_as_arguments,
    refuse_existing,
    threads_option,
)
from gpuio.cli._output import by, plain, print_json, print_report, print_rows, printable, progress_bar

__all__ = ["Commands", "Parameter", "describe", "main", "patience", "plain", "printable", "progress_bar"]


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(gpuio.__version__, prog_name="gpuio")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Electron-microscopy detector data: look into files, see and check them, convert them, measure this machine."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


main.add_command(bench)


@main.command()
@dataset_options
def info(path: str, format_name: str, device: str | None, parameters: tuple[tuple[str, Any], ...], as_json: bool) -> None:
    """What FILE holds: shapes, dtype, metadata, and what was odd."""
    ds = open_dataset(path, format_name, device, parameters)
    files = [str(f) for f in ds.files]
    facts = {
        "format": ds.format, "files": files, "nav_shape": tuple(ds.shape.nav), "sig_shape": tuple(ds.shape.sig),
        "dtype": str(ds.dtype), "image_count": ds.image_count, "sync_offset": ds.sync_offset, "device": ds.device,
    }
    if as_json:
        print_json({**facts, "metadata": ds.metadata, "notes": ds.notes, "diagnostics": ds.diagnostics})
        return
    shown = files if len(files) <= 3 else [files[0], f"... {len(files) - 2} more ...", files[-1]]
    print_rows({**facts, "files": shown, "nav_shape": by(ds.shape.nav), "sig_shape": by(ds.shape.sig)})
    print_rows(ds.metadata, title="metadata")
    print_rows({d["name"]: d["value"] for d in ds.diagnostics if d["name"] not in ds.metadata}, title="diagnostics")
    for note in ds.notes:
        click.echo(f"note: {printable(note)}")


@main.command()
@dataset_options
@click.option("-o", "--output", type=Picture(), help="PNG to write; default: here, named as FILE.")
@click.option("--log/--linear", "log", default=True, show_default=True, help="Scale of the pattern.")
@memory_option
@threads_option
def show(path: str, format_name: str, device: str | None, parameters: tuple[tuple[str, Any], ...], as_json: bool, output: Path | None,
         log: bool, memory: str | None, threads: int | None) -> None:
    """Scan image and mean pattern of FILE as one PNG."""
    from gpuio import preview

    output = output or Path(Path(path).stem + ".png")
    ds = open_dataset(path, format_name, device, parameters)
    started = time.perf_counter()
    with progress_bar("reading") as progress:
        scan, pattern = preview.summarise(ds, memory=memory, threads=threads, progress=progress)
    seconds = time.perf_counter() - started
    preview.save(preview.overview(scan, pattern, log=log), output)
    result = {"output": str(output), "nav_shape": tuple(ds.shape.nav), "sig_shape": tuple(ds.shape.sig), "frames": ds.image_count,
              "device": ds.device, "seconds": round(seconds, 3)}
    if as_json:
        print_json(result)
    else:
        click.echo(f"{printable(output)}: scan {by(ds.shape.nav)}, pattern {by(ds.shape.sig)}, "
                   f"{ds.image_count} frames in {seconds:.2f} s on {ds.device}")


@main.command()
@dataset_options
@click.argument("output", metavar="OUT", type=click.Path())
@dtype_option
@click.option("--crop", type=Intervals(), metavar="Y0:Y1,X0:X1", help="Part of the detector to write.")
@click.option("--bin-sig", type=Numbers(), metavar="N[,N]", help="Sum blocks of N x N detector pixels.")
@click.option("--compression", type=click.Choice(["none", "gzip", "bitshuffle"]), default="none", show_default=True,
              help="Of chunks, for .h5 and .zarr.")
@click.option("--verify", is_flag=True, help="Read everything back and compare before OUT gets its name.")
@click.option("--preview", type=Picture(), help="PNG of scan image and mean pattern to write as well.")
@force_option
@memory_option
@threads_option
def convert(path: str, output: str, format_name: str, device: str | None, parameters: tuple[tuple[str, Any], ...], as_json: bool,
            dtype: Any, crop: Any, bin_sig: Any, compression: str, verify: bool, preview: Path | None, force: bool,
            memory: str | None, threads: int | None) -> None:
    """Write the pixels of FILE to a .npy, .h5 or .zarr file.

    OUT appears whole or not at all.
    """
    from gpuio import preview as pictures
    from gpuio.explain import size_text
    from gpuio.integrations.export import export

    refuse_existing(output, force)
    ds = open_dataset(path, format_name, device, parameters)
    if crop is not None or bin_sig is not None:
        ds = ds.reduce(crop, bin_sig)
    started = time.perf_counter()
    with progress_bar("writing") as progress:
        done = export(ds, output, dtype=dtype, compression=compression, overwrite=force, verify=verify, memory=memory,
                      threads=threads, progress=progress)
    seconds = time.perf_counter() - started
    if preview is not None:
        pictures.save(pictures.overview(done.scan_image, done.summed_pattern / max(1, ds.image_count)), preview)
    if as_json:
        print_json({"output": done.path, "nav_shape": tuple(ds.shape.nav), "sig_shape": tuple(ds.shape.sig), "dtype": str(done.dtype),
                    "bytes": done.stored_bytes, "verified": done.verified, "seconds": round(seconds, 3)})
    else:
        click.echo(f"{printable(done.path)}: scan {by(ds.shape.nav)}, detector {by(ds.shape.sig)}, {done.dtype}, "
                   f"{size_text(done.stored_bytes)} in {seconds:.2f} s{', read back and compared' if verify else ''}")


@main.command()
@click.argument("format_name", metavar="FORMAT")
@click.argument("path", metavar="PATH", type=click.Path())
@click.option("--nav", nargs=2, type=click.IntRange(min=1), default=(64, 64), show_default=True, metavar="Y X", help="Scan positions.")
@click.option("--sig", nargs=2, type=click.IntRange(min=1), metavar="Y X",
              help="Detector pixels.  [default: those of the format's detector, else 256 256]")
@click.option("--dose", type=float, default=64.0, show_default=True, help="Mean counts of a pixel in the transmitted disk.")
@click.option("--bits", type=click.IntRange(1, 16), default=16, show_default=True, help="Counts stop at 2^bits - 1.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random numbers.")
@force_option
@parameter_option("Option of the writer, such as kind=R12 (mib) or dtype='<u2' (npy, raw); may be repeated.")
@json_option
def make(format_name: str, path: str, nav: tuple[int, int], sig: tuple[int, ...] | None, dose: float, bits: int, seed: int, force: bool,
         parameters: tuple[tuple[str, Any], ...], as_json: bool) -> None:
    """Write a synthetic 4D-STEM scan as PATH in FORMAT."""
    from gpuio import synth
    from gpuio.explain import size_text

    refuse_existing(path, force)
    sig = sig or synth.detector(format_name) or (256, 256)
    scene = synth.Scene(nav, sig, seed=seed, dose=dose, bits=bits)
    with progress_bar("writing") as progress, parameters_as_arguments(path):
        files = synth.write(format_name, path, scene, progress=progress, **dict(parameters))
    n_bytes = sum(os.path.getsize(f) for f in files)
    if as_json:
        print_json({"files": files, "bytes": n_bytes, "nav_shape": nav, "sig_shape": sig, "seed": seed})
    else:
        click.echo(f"{printable(', '.join(files))}: {by(nav)} positions of {by(sig)} pixels, {size_text(n_bytes)}")


@main.command()
@file_options
def check(path: str, format_name: str, parameters: tuple[tuple[str, Any], ...], as_json: bool) -> int:
    """Find lost frames, damage and gaps; guess the scan.

    What the files of FILE say is compared with what they hold: sizes, headers of all frames, counters, times.

    Exit code 0: no errors, 1: there are.
    """
    from gpuio import check as checking

    arguments = format_arguments(format_name, parameters)
    with progress_bar("frame headers") as progress, parameters_as_arguments(path):
        report = checking.check(path, format_name, progress=progress, **arguments)
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report)
    return 0 if report.is_clean else 1


@main.command()
@file_options
@click.option("-o", "--output", type=click.Path(path_type=Path), help="JSON file to write; default: here, named as FILE.")
@force_option
def refs(path: str, format_name: str, parameters: tuple[tuple[str, Any], ...], as_json: bool, output: Path | None, force: bool) -> None:
    """Write references by which Zarr and xarray read FILE in place.

    For pixels that are stored as plain numbers.
    """
    from gpuio.newfile import new_file

    output = output or Path(Path(path).stem + ".refs.json")
    refuse_existing(output, force)
    found = open_dataset(path, format_name, "cpu", parameters).to_virtual()
    with new_file(str(output)) as temporary:
        Path(temporary).write_text(json.dumps(found), encoding="utf-8")
    chunks = sum(isinstance(value, list) for value in found["refs"].values())
    if as_json:
        print_json({"output": str(output), "chunks": chunks, "bytes": output.stat().st_size})
    else:
        click.echo(f"{printable(output)}: {chunks} chunks")


@main.command("formats")
@json_option
def list_formats(as_json: bool) -> None:
    """The formats that can be read."""
    if as_json:
        print_json([{"name": name, "extensions": row.extensions, "recognised": row.has_magic} for name, row in registry.FORMATS.items()])
        return
    for name, row in registry.FORMATS.items():
        how = f"any file, with --format {name}" if row.is_file else f"arrays in Python, with gpuio.load({name!r}, ...)"
        how = " ".join(f".{e}" for e in row.extensions) or how
        click.echo(f"{name:8} {how}")


@main.command()
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("demo-output"), show_default=True,
              help="Folder for the scan and the pictures.")
@click.option("--size", default="512 MiB", show_default=True, help="Packed bytes of the scan, about.")
@device_option
@json_option
def demo(output: Path, size: str, device: str | None, as_json: bool) -> None:
    """Make a scan, stream it, check it, time it, draw it."""
    from gpuio import demo as demonstration

    with progress_bar("demo") as progress:
        result = demonstration.run(output, size=size, device=device, progress=progress)
    if as_json:
        print_json(result)
    else:
        demonstration.report(result)


@main.command()
@dataset_options
@dtype_option
@memory_option
@threads_option
@click.option("--measure", is_flag=True, help="Measure what this machine can do at best; takes a few seconds.")
def explain(path: str, format_name: str, device: str | None, parameters: tuple[tuple[str, Any], ...], as_json: bool, dtype: Any,
            memory: str | None, threads: int | None, measure: bool) -> None:
    """Which way the bytes of FILE take, and what limits the rate.

    On this machine, with the reasons that stand against a better way.
    """
    ds = open_dataset(path, format_name, device, parameters)
    explanation = ds.explain(dtype=dtype, memory=memory, threads=threads, measure=measure)
    if as_json:
        print_json(explanation.to_dict())
    else:
        for line in str(explanation).splitlines():
            click.echo(printable(line))


@main.command()
@click.argument("path", metavar="[FILE]", type=click.Path(), required=False)
@click.option("--formats", "names", default=None, metavar="NAMES", help="Formats, separated by commas, instead of FILE; default: all.")
@click.option("-f", "--format", "format_name", default="auto", metavar="NAME", show_default=True, help="Format of FILE.")
@parameter_option("Parameter of FILE's format; may be repeated.")
@device_option
@json_option
def warmup(path: str | None, names: str | None, format_name: str, parameters: tuple[tuple[str, Any], ...], device: str | None,
           as_json: bool) -> None:
    """Compile ahead what FILE, or usual files of all formats, need.

    For the CPU and, where there is one, the GPU.
    """
    from gpuio import warmup as warming

    if path is not None and names is not None:
        raise click.UsageError("FILE and --formats exclude each other")
    wanted = [name.strip() for name in names.split(",")] if names else registry.names()
    targets = [gpuio.engine.resolve_device(device)] if device else warming.devices()
    found = warming.samples(wanted) if path is None else [open_dataset(path, format_name, "cpu", parameters)]
    started, ready = time.perf_counter(), []
    for ds in found:
        for target in targets:
            for done in warming.warm(ds, target):
                ready.append(done)
                if not as_json:
                    click.echo(f"{done.device:7} {done.encoding:10} {done.pixels:8} to {done.use:38} {done.seconds:6.2f} s  "
                               f"{f'{done.compiled} compiled' if done.compiled else 'was there'}")
    seconds = time.perf_counter() - started
    if as_json:
        print_json({"ready": [asdict(done) for done in ready], "seconds": seconds})
    else:
        click.echo(f"ready after {seconds:.2f} s; {sum(done.compiled for done in ready)} functions were compiled now")
