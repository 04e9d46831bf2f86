"""The data-set API as the specification prints it: every name, signature, property and constant of `api_names.json`."""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

import gpuio
import gpuio.base

NAMES: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in json.loads(Path(__file__).with_name("api_names.json").read_text())}

METHODS = [(name, method["name"]) for name in NAMES for method in NAMES[name].get("methods", ())]


def find(name: str) -> Any:
    """An object by name, from the package or from its `base`."""
    return getattr(gpuio, name, None) or getattr(gpuio.base, name)


def check_parameters(function: Any, printed: list[dict[str, Any]], *, bound: bool, separate_arguments: bool = False) -> None:
    """The printed parameters come first, in order, with their defaults (``...``: some default); further ones are optional."""
    found = list(inspect.signature(function).parameters.values())[0 if bound else 1:]
    by_name = {p.name: p for p in found}
    places = [p.name for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY)]
    place = 0
    for entry in printed:
        name = entry["name"]
        assert name in by_name
        parameter = by_name[name]
        keyword_only = entry.get("kind") == "keyword_only" or (separate_arguments and place > 0)
        if not keyword_only:
            assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            assert places[place] == name
            place += 1
        if "default" not in entry:
            continue            # required on the page; it may well be optional here
        assert parameter.default is not parameter.empty
        if entry["default"] != "...":
            expected = ast.literal_eval(entry["default"])
            assert (type(parameter.default), parameter.default) == (type(expected), expected)
    printed_names = {entry["name"] for entry in printed}
    required = [p.name for p in found if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    assert not set(required) - printed_names


def test_the_list_is_complete():
    assert len(NAMES) == 40


@pytest.mark.parametrize("name", NAMES)
def test_names_are_what_they_are_said_to_be(name):
    found, kind = find(name), NAMES[name]["kind"]
    if kind == "function":
        assert callable(found)
        assert not isinstance(found, type)
    else:
        assert isinstance(found, type)
        assert issubclass(found, Exception) == (kind == "exception")


@pytest.mark.parametrize("name", [name for name in NAMES if "parameters" in NAMES[name]])
def test_signatures_are_as_printed(name):
    check_parameters(find(name), NAMES[name]["parameters"], bound=True)


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_methods_are_as_printed(name, method):
    entry = next(m for m in NAMES[name]["methods"] if m["name"] == method)
    raw = inspect.getattr_static(find(name), method)
    is_classmethod = isinstance(raw, (classmethod, staticmethod))
    assert is_classmethod or entry.get("kind") != "classmethod"
    check_parameters(getattr(find(name), method), entry["parameters"], bound=is_classmethod,
                     separate_arguments=entry.get("separate_arguments", False))


@pytest.mark.parametrize(("name", "attribute"), [(name, a) for name in NAMES for a in NAMES[name].get("properties", ())])
def test_properties_exist(name, attribute):
    assert not callable(inspect.getattr_static(find(name), attribute))


@pytest.mark.parametrize(("name", "attribute"), [(name, a) for name in NAMES for a in NAMES[name].get("class_attributes", {})])
def test_class_attributes_have_the_printed_value(name, attribute):
    found, expected = getattr(find(name), attribute), NAMES[name]["class_attributes"][attribute]
    if attribute == "registry":
        found = {key: value.__name__ for key, value in found.items() if key in expected}
    assert found == expected


def test_instance_attributes_exist():
    meta = gpuio.base.DataSetMeta(gpuio.base.Shape((2, 3, 4), sig_dims=2), raw_dtype="u1")
    for attribute in NAMES["DataSetMeta"]["instance_attributes"]:
        assert hasattr(meta, attribute)


@pytest.mark.parametrize("name", [name for name in NAMES if "load_id" in NAMES[name]])
def test_formats_are_loaded_by_their_name(name):
    assert gpuio.formats.get(NAMES[name]["load_id"]) is find(name)


@pytest.mark.parametrize("name", [
    "CorrectionSet", "IOBackendImpl", "JobExecutor", "MessageConverter", "OffsetsSizes", "Shape", "Slice", "TaskCommHandler", "UDFProtocol",
    "WorkerContext",
])
def test_types_of_the_signatures_are_public(name):
    assert isinstance(getattr(gpuio.base, name), type)


@pytest.mark.parametrize("name", gpuio.base.__all__)
def test_base_exports_what_it_lists(name):
    assert getattr(gpuio.base, name) is not None
    assert name in dir(gpuio.base)


def test_base_has_nothing_else():
    with pytest.raises(AttributeError, match=r"'gpuio\.base' has no attribute 'nothing'"):
        _ = gpuio.base.nothing
