"""The house's rules on who may import whom, checked on the source; and what ``import gpuio`` may load.

Imports for type checkers alone are free. Those made inside functions count like any other, except where `DEFERRED` names
them with the reason.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: Rooms of single modules; every folder is a room of its own.
ROOMS = {
    "values": "errors extras newfile hostarray shape fileset layout inflation findings meta reduction source tile corrections "
              "engine conversion prepare chunks config kept",
    "stream": "workers sums blocks chunk_blocks boxes sizing transport pipeline access exchange messages partition dataset explain "
              "ceilings",
    "door": "__init__ base",
    "edge": "__main__ demo check candidates preview warmup testing",
}
ROOM_OF = {f"gpuio.{name}" if name != "__init__" else "gpuio": room for room, names in ROOMS.items() for name in names.split()}

#: What a room may import from, besides itself.
ALLOWED = {
    "values": set(),
    "geometry": {"values"},
    "io": {"values"},
    "kernels": {"values"},
    "cpu_fallback": {"values"},
    "synth": {"values"},
    "stream": {"values", "geometry", "io"},
    "formats": {"values", "stream"},
    "door": {"values", "geometry", "io", "stream", "formats"},
    "bench": {"values", "geometry", "io", "stream", "door", "formats", "synth"},
    "edge": {"values", "stream", "door", "formats", "synth", "integrations", "cli", "bench"},
    "cli": {"values", "stream", "door", "formats", "synth", "edge", "bench", "integrations"},
    "integrations": {"values", "door"},
}

#: Imports against the current that are made inside functions only.
DEFERRED = {
    ("gpuio.engine", "gpuio.kernels"): "the one place that knows both engines",
    ("gpuio.engine", "gpuio.cpu_fallback"): "the one place that knows both engines",
    ("gpuio.fileset", "gpuio.geometry.ranges"): "FileSet.get_read_ranges is a thin view of it",
    ("gpuio.fileset", "gpuio.geometry.selection"): "FileSet.get_read_ranges is a thin view of it",
    ("gpuio.dataset", "gpuio.formats"): "the registry knows how many bytes a sniffer wants",
    ("gpuio.exchange", "gpuio.integrations.dask"): "a method of data sets that is the integration",
    ("gpuio.exchange", "gpuio.integrations.references"): "a method of data sets that is the integration",
    ("gpuio.exchange", "gpuio.integrations.export"): "a method of data sets that is the integration",
    ("gpuio.formats.raw", "gpuio.io.backends"): "a deprecated parameter names a backend",
    ("gpuio.formats.raw_csr", "gpuio.io.scatter"): "sparse tiles are entries as they are read",
    ("gpuio.formats._arrays", "gpuio.io.computed"): "pixels that are in no file have a transport of their own",
}

#: Packages besides numpy, and who may import them.
THIRD_PARTY = {
    "cupy": ("gpuio.kernels", "gpuio.io.pinned", "gpuio.io.gds", "gpuio.io.staging"),
    "kvikio": ("gpuio.io.gds",),
    "numba": ("gpuio.cpu_fallback", "gpuio.geometry.ranges"),
    "llvmlite": ("gpuio.cpu_fallback",),
    "zlib_ng": ("gpuio.cpu_fallback._inflate",),
    "rsciio": ("gpuio.bench.peers",),
    "ncempy": ("gpuio.bench.peers",),
    "h5py": ("gpuio.bench.peers", "gpuio.formats._hdf5_structure", "gpuio.synth.hdf5", "gpuio.integrations._containers"),
    "hdf5plugin": ("gpuio.bench.peers", "gpuio.formats._hdf5_structure", "gpuio.synth.hdf5", "gpuio.integrations._containers"),
    "zarr": ("gpuio.integrations._containers",),
    "dask": ("gpuio.formats.dask", "gpuio.integrations.dask"),
    "libertem": ("gpuio.bench.peers", "gpuio.integrations.libertem", "gpuio.integrations._libertem"),
    "xarray": ("gpuio.integrations.xarray",),
    "defusedxml": ("gpuio.formats._xml",),
    "scipy": ("gpuio.cpu_fallback",),
    "cupyx": ("gpuio.kernels",),
    "jsonschema": ("gpuio.meta", "gpuio.messages"),
    "click": ("gpuio.cli",),
    "rich": ("gpuio.cli", "gpuio.demo"),
    "PIL": ("gpuio.preview",),
}

HEAVY = ("cupy", "numba", "kvikio", "h5py", "dask")


def source_files() -> dict[str, Path]:
    """Module name and file of every module of the package."""
    found = {}
    for top, package in (("gpuio", "gpuio"), ("kernels", "gpuio.kernels"), ("cpu_fallback", "gpuio.cpu_fallback")):
        for path in sorted((ROOT / top).rglob("*.py")):
            inner = path.relative_to(ROOT / top).with_suffix("").parts
            if top == "gpuio" and inner[0] in ("kernels", "cpu_fallback"):
                continue        # links
            found[".".join((package, *inner)).removesuffix(".__init__")] = path
    return found


MODULES = source_files()


def imports(module: str) -> Iterator[tuple[str, bool]]:
    """Name of each import of a module that runs, and whether it runs inside a function only."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    pending: list[tuple[ast.AST, bool]] = [(ast.parse(MODULES[module].read_text()), False)]
    while pending:
        node, inside = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += [(child, inside) for child in node.orelse]
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[:len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{source}.{alias.name}"
                yield (name if name in MODULES else source), inside
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        pending += [(child, inside) for child in ast.iter_child_nodes(node)]


def room(module: str) -> str:
    return ROOM_OF.get(module) or module.split(".")[1]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_a_room(module):
    assert room(module) in ALLOWED, f"{module} is in no room; add it to ROOMS"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_rooms_below(module):
    mine = room(module)
    wrong = {
        name for name, inside in imports(module)
        if name in MODULES and room(name) != mine and room(name) not in ALLOWED[mine] and not (inside and (module, name) in DEFERRED)
    }
    assert not wrong


@pytest.mark.parametrize("module", MODULES)
def test_other_packages_are_imported_only_where_they_belong(module):
    wrong = set()
    for name, _ in imports(module):
        top = name.split(".")[0]
        if top in sys.stdlib_module_names or top in ("gpuio", "numpy"):
            continue
        if not any(module == home or module.startswith(home + ".") for home in THIRD_PARTY.get(top, ())):
            wrong.add(name)
    assert not wrong


@pytest.mark.parametrize("module", [m for m in MODULES if m != "gpuio.engine" and room(m) not in ("kernels", "cpu_fallback")])
def test_only_engine_knows_that_there_are_two_engines(module):
    assert not {name for name, _ in imports(module) if name.startswith(("gpuio.kernels", "gpuio.cpu_fallback"))}


@pytest.mark.parametrize("pair", DEFERRED, ids=" ".join)
def test_every_exception_is_needed(pair):
    module, name = pair
    assert (name, True) in set(imports(module))


def loaded(code: str) -> set[str]:
    """Packages that a fresh interpreter has loaded after `code`."""
    script = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("code", [
    "import gpuio",
    "import gpuio.base\nfor name in gpuio.base.__all__: getattr(gpuio.base, name)",
], ids=["import gpuio", "all of gpuio.base"])
def test_importing_loads_nothing_heavy(code):
    packages = loaded(code)
    assert "gpuio" in packages
    assert not packages & set(HEAVY)


def test_the_wheel_holds_every_package():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert set(config["packages"]) == packages
    assert config["package-dir"] == {"gpuio.kernels": "kernels", "gpuio.cpu_fallback": "cpu_fallback"}


def test_the_links_of_the_checkout_lead_to_the_mapped_folders():
    for name in ("kernels", "cpu_fallback"):
        assert (ROOT / "gpuio" / name).resolve() == (ROOT / name).resolve()
