"""What is installed is what is in the checkout, and what the documents promise is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest

import gpuio
from gpuio.cli import main

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAPPED = PYPROJECT["tool"]["setuptools"]["package-dir"]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted((ROOT / "docs").glob("*.md"))


def package_folders() -> dict[str, Path]:
    """Every package of the checkout, by its import name."""
    inside = {".".join(p.parent.relative_to(ROOT).parts): p.parent for p in (ROOT / "gpuio").rglob("__init__.py")
              if not any(parent.is_symlink() for parent in p.parents)}
    return inside | {name: ROOT / folder for name, folder in MAPPED.items()}


def test_kernel_sources_are_package_data() -> None:
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["gpuio.kernels"]
    found = {path for pattern in patterns for path in (ROOT / "kernels").glob(pattern)}
    assert found == {p for p in (ROOT / "kernels").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert found


def test_versions_agree() -> None:
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "gpuio.__version__"}
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert citation is not None
    assert citation[1] == gpuio.__version__
    assert gpuio.__version__ in (ROOT / "CHANGELOG.md").read_text()


def test_importing_gpuio_and_its_command_line_loads_nothing_heavy() -> None:
    code = "import sys, gpuio, gpuio.cli; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    heavy = {"cupy", "numba", "llvmlite", "kvikio", "h5py", "dask", "libertem", "PIL", "jsonschema", "rich", "matplotlib", "xarray"}
    assert not heavy & set(re.findall(r"'(\w+)'", loaded))


def test_make_targets_of_the_documents_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= targets
    named = {t for document in DOCUMENTS for t in re.findall(r"(?:`|^)make (\w+)", document.read_text(), re.MULTILINE)}
    assert named
    assert named <= targets


def test_extras_of_the_documents_exist() -> None:
    extras = set(PYPROJECT["project"]["optional-dependencies"])
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    named = set(re.findall(r"(?:EXTRAS=|gpuio|`)\[(\w+)\]", text)) | set(re.findall(r"--extra (\w+)", text))
    assert {"cuda12", "cuda13", "test"} <= named <= extras


def test_commands_of_the_documents_exist() -> None:
    named = {c for document in DOCUMENTS for c in re.findall(r"(?:`|^)gpuio (\w+)", document.read_text(), re.MULTILINE)}
    assert named == set(main.commands)


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if not target.startswith("https://"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_index_lists_every_page() -> None:
    linked = re.findall(r"^- \[.+?\]\((\w+\.md)\)", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)
    assert sorted(linked) == sorted(page.name for page in (ROOT / "docs").glob("*.md") if page.name != "index.md")


def test_formats_and_commands_of_the_changes_are_those_that_there_are() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert set(main.commands) <= set(re.findall(r"`(?:gpuio )?(\w+)`", text))
    spelt = {"dm": "DM3 and DM4", "memory": "arrays in memory", "dask": "dask arrays", "raw": "raw", "raw_csr": "raw_csr"}
    assert not [name for name in gpuio.formats() if spelt.get(name, name.upper()) not in text]


def test_formats_of_the_readme_are_those_that_can_be_read() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(gpuio.formats())
    assert re.findall(r"^## `(\w+)`", (ROOT / "docs" / "formats.md").read_text(), re.MULTILINE) == listed


def test_the_code_of_the_readme_runs_and_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert code is not None
    scene = gpuio.synth.Scene((13, 41), (64, 64), seed=4)
    gpuio.synth.write("mib", tmp_path / "scan.mib", scene)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUIO_DEVICE", "cpu")
    names: dict[str, object] = {}
    exec(code[1], names)
    frames = scene.frames(0, 13 * 41)
    assert np.array_equal(names["pattern"], frames[12 * 41 + 40])
    assert np.allclose(names["total"], frames.sum(axis=0), rtol=1e-5)       # summed in float32, tile by tile


def test_the_wheel_holds_every_source_file_once(tmp_path: Path) -> None:
    source = tmp_path / "checkout"
    # Without the links, as on systems that have none: the mapping alone must do.
    skipped = shutil.ignore_patterns("__pycache__", *(name.rpartition(".")[2] for name in MAPPED))
    for folder in ("gpuio", *MAPPED.values()):
        shutil.copytree(ROOT / folder, source / folder, ignore=skipped)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "import setuptools.build_meta as b; print(b.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(source / done.stdout.split()[-1]) as wheel:
        held = [name for name in wheel.namelist() if ".dist-info/" not in name]
    expected = [f"{name.replace('.', '/')}/{path.name}" for name, folder in package_folders().items()
                for path in (source / folder.relative_to(ROOT)).iterdir() if path.suffix in (".py", ".cu", ".cuh", ".json", ".typed")]
    assert sorted(held) == sorted(expected)
