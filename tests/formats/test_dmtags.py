"""DigitalMicrograph tags: every type of value in both versions and byte orders, and every kind of damage."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuio.errors import DataSetException, FormatError, UnsupportedFeature
from gpuio.formats import _dmtags
from gpuio.formats._dmtags import Array, is_tag_file, read_tags
from tests.formats.k2is_files import group, tag, tag_file

FOLDER = Path(os.environ.get("GPUIO_REAL_DATA", "/nonexistent"))


class Files(dict):
    """A `Source` made of a dictionary; counts the bytes read."""

    n_bytes = 0

    def read(self, path, offset, size):
        found = self[path][offset:offset + size]
        self.n_bytes += len(found)
        return found

    def size(self, path):
        return len(self[path])


def values(content):
    return read_tags(Files({"a.dm4": content}), "a.dm4").values


def infos(version, *numbers):
    """``%%%%``, the number of infos, the infos."""
    wide = ">I" if version == 3 else ">Q"
    return b"%%%%" + b"".join(struct.pack(wide, n) for n in (len(numbers), *numbers))


NUMBERS = [(2, "h", -2), (3, "i", -70000), (4, "H", 65535), (5, "I", 2**32 - 1), (6, "f", 1.5), (7, "d", -1e300), (8, "B", 1),
           (9, "b", -128), (10, "B", 255), (11, "q", -2**63), (12, "Q", 2**64 - 1)]


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize(("order", "flag"), [("<", 1), (">", 0)])
class TestValues:
    @pytest.mark.parametrize(("kind", "code", "value"), NUMBERS)
    def test_numbers(self, version, order, flag, kind, code, value):
        content = tag_file(tag("n", infos(version, kind) + struct.pack(order + code, value), version), version=version, flag=flag)
        found = values(content)[("n",)]
        assert found == value and type(found) is (bool if kind == 8 else type(value))

    def test_structs(self, version, order, flag):
        raw = b"".join(struct.pack(order + code, value) for _, code, value in NUMBERS)
        head = infos(version, 15, 0, len(NUMBERS), *(n for kind, _, _ in NUMBERS for n in (0, kind)))
        assert values(tag_file(tag("s", head + raw, version), version=version, flag=flag))[("s",)] == tuple(v for _, _, v in NUMBERS)

    @pytest.mark.parametrize(("kind", "code", "value"), NUMBERS)
    def test_arrays(self, version, order, flag, kind, code, value):
        raw = struct.pack(order + 3 * code, 1, value, 0)
        content = tag_file(tag("a", infos(version, 20, kind, 3) + raw, version), version=version, flag=flag)
        found = values(content)[("a",)]
        assert (found.count, found.raw, found.n_bytes) == (3, raw, len(raw))
        assert content[found.offset:found.offset + len(raw)] == raw
        assert np.frombuffer(found.raw, found.dtype).tolist() == [1, value, 0]

    def test_arrays_of_structs(self, version, order, flag):
        raw = struct.pack(order + "hfhf", 1, 2.5, -3, 4.5)
        found = values(tag_file(tag("a", infos(version, 20, 15, 0, 2, 0, 2, 0, 6, 2) + raw, version), version=version, flag=flag))[("a",)]
        assert np.frombuffer(found.raw, found.dtype).tolist() == [(1, 2.5), (-3, 4.5)]
        assert found.text is None

    def test_text(self, version, order, flag):
        raw = "µm \u03b2".encode("utf-16-le" if order == "<" else "utf-16-be")
        found = values(tag_file(tag("t", infos(version, 20, 4, 4) + raw, version), version=version, flag=flag))[("t",)]
        assert found.text == "µm \u03b2"

    def test_long_arrays_are_found_but_not_read(self, version, order, flag):
        n = 1_000_003
        files = Files({"a": tag_file(tag("pixels", infos(version, 20, 4, n) + bytes(2 * n), version),
                                     tag("after", infos(version, 2) + struct.pack(order + "h", 7), version), version=version, flag=flag)})
        found = read_tags(files, "a")
        pixels = found.values[("pixels",)]
        assert (found.version, found.little_endian) == (version, order == "<")
        assert (pixels.count, pixels.raw, pixels.text, pixels.dtype) == (n, b"", None, np.dtype(order + "u2"))
        assert files["a"][pixels.offset - len(infos(version, 20, 4, n)):pixels.offset] == infos(version, 20, 4, n)
        assert found.values[("after",)] == 7
        assert files.n_bytes < 200_000


@pytest.mark.parametrize("version", [3, 4])
def test_paths_order_and_unnamed_entries(version):
    def number(name, value):
        return tag(name, value, version)

    content = tag_file(
        number("b", 1), group("List", group("", number("x", 2), version=version), group("", number("x", 3), version=version),
                              number("", 4), version=version), number("a\xb5", 5), number("b", 6), group("Empty", version=version),
        version=version)
    found = read_tags(Files({"f": content}), "f")
    assert list(found.values.items()) == [(("b",), 1), (("List", "0", "x"), 2), (("List", "1", "x"), 3), (("List", "2"), 4), (("aµ",), 5)]
    assert found.below("List") == {("0", "x"): 2, ("1", "x"): 3, ("2",): 4}
    assert found.below("List", "1") == {("x",): 3} and found.below("b") == {}


def test_groups_that_are_not_wanted_are_skipped_where_sizes_tell_their_end():
    for version, expected in ((4, {("a", "x"): 1, ("c",): 4}), (3, {("a", "x"): 1, ("a", "b", "y"): 2, ("b", "z"): 3, ("c",): 4})):
        content = tag_file(group("a", tag("x", 1, version), group("b", tag("y", 2, version), version=version), version=version),
                           group("b", tag("z", 3, version), version=version), tag("c", 4, version), version=version)
        assert read_tags(Files({"f": content}), "f", lambda path: path == ("a",)).values == expected


def test_strings_of_version_4_are_as_long_as_their_entry():
    assert values(tag_file(tag("s", infos(4, 18, 3) + b"a\xb5b")))[("s",)] == "aµb"
    assert values(tag_file(tag("s", infos(4, 18, 3) + "aµb".encode("utf-16-le"))))[("s",)] == "aµb"
    with pytest.raises(UnsupportedFeature, match=r"^a\.dm4, byte 38, tag 's': a string of type 18 in a version 3 file"):
        values(tag_file(tag("s", infos(3, 18, 3) + b"abc", 3), version=3))


@pytest.mark.parametrize(("head", "expected"), [
    (tag_file(tag("a", 1)), True), (tag_file(tag("a", 1, 3), version=3), True), (tag_file(tag("a", 1, order=">"), flag=0), True),
    (b"", False), (b"\0\0\0\4", False), (b"\0\0\0\5" + bytes(60), False), (tag_file(flag=2), False), (b"\0\0\0\4" + b"\xff" * 60, False),
])
def test_recognition(head, expected):
    assert is_tag_file(head) is expected


GOOD = tag_file(group("G", tag("n", 7), tag("t", infos(4, 20, 4, 2) + b"a\0b\0")), tag("last", 9))


def nested(depth):
    entry = tag("n", 1, 3)
    for _ in range(depth):
        entry = group("g", entry, version=3)
    return tag_file(entry, version=3)


@pytest.mark.parametrize(("content", "message"), [
    (b"\0\0\0\5" + GOOD[4:], r"^a\.dm4: not a DigitalMicrograph 3 or 4 file: its version is 5; expected 3 or 4$"),
    (GOOD[:12] + b"\0\0\0\2" + GOOD[16:], "endian flag 2; expected 0 or 1"),
    (tag_file(tag("n", b"%%%$" + bytes(40))), r"byte 42, tag 'n': damaged tags: a value begins with b'%%%\$'; expected b'%%%%'"),
    (tag_file(b"\x16" + tag("n", 1)[1:]), "a tag of kind 22; expected 20 \\(group\\) or 21 \\(data\\)"),
    (tag_file(group("g", count=2**40)), r"tag 'g': damaged tags: 1099511627776 entries; the file has"),
    (tag_file(tag("n", b"%%%%" + struct.pack(">Q", 2**60))), "1152921504606846976 infos; the file has"),
    (tag_file(tag("n", infos(4))), "0 infos; expected 1 to 4096"),
    (tag_file(tag("n", infos(4, *[15] * 5000))), "5000 infos; expected 1 to 4096"),
    (tag_file(tag("n", infos(4, 20, 4, 2**62) + bytes(8))), "an array of 9223372036854775808 bytes; the file has"),
    (tag_file(tag("n", infos(4, 20, 4, 2**64 - 1) + bytes(8))), "an array of 36893488147419103230 bytes"),
    (tag_file(tag("n", infos(4, 99) + bytes(8))), r"a value of type \[99\]; expected a number, a struct, a string or an array"),
    (tag_file(tag("n", infos(4, 2, 2) + bytes(8))), r"a value of type \[2, 2\]"),
    (tag_file(tag("n", infos(4, 15, 0, 0))), r"a value of type \[15, 0, 0\]"),
    (tag_file(tag("n", infos(4, 15, 0, 2, 0, 2) + bytes(8))), r"a value of type \[15, 0, 2, 0, 2\]"),
    (tag_file(tag("n", infos(4, 15, 0, 1, 0, 15) + bytes(8))), r"a value of type \[15, 0, 1, 0, 15\]"),
    (tag_file(tag("n", infos(4, 20, 20, 4, 3, 2) + bytes(48))), r"a value of type \[20, 4, 3\]"),
    (tag_file(tag("n", infos(4, 20))), r"a value of type \[20\]"),
    (tag_file(tag("n", infos(4, 2) + bytes(3))), "the value ends here; expected its end at byte"),
    (tag_file(b"\x14\0\1g" + struct.pack(">Q", 10**6) + bytes(10)), "a tag of 1000000 bytes; the file has"),
    (tag_file(b"\x14\0\1g" + struct.pack(">Q", 9) + b"\0\0" + bytes(8) + bytes(20)), "the group ends here; expected its end at byte"),
    (tag_file(b"\x15\0\1n" + struct.pack(">Q", 3) + infos(4, 18, 1) + bytes(8)), "the value begins here; expected it before byte"),
    (nested(64), r"groups nested deeper than 64"),
    (tag_file(b"\x15\xff\xff" + bytes(20)), "the file ends inside the name: it has"),
])
def test_damage_is_named_with_its_place(content, message):
    with pytest.raises(FormatError, match=message) as caught:
        values(content)
    assert str(caught.value).startswith("a.dm4") and "\n" not in str(caught.value)


def test_as_many_levels_as_allowed_are_read():
    assert values(nested(63)) == {("g",) * 63 + ("n",): 1}


def test_names_cannot_break_a_message():
    with pytest.raises(FormatError) as caught:
        values(tag_file(group("a\nb", tag("c\x1b" * 3000, b"%%%%" + bytes(8)))))
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value) and len(str(caught.value)) < 1000


def test_tags_are_bounded_in_number_and_size(monkeypatch):
    monkeypatch.setattr(_dmtags, "MAX_TAGS", 100)
    assert len(values(tag_file(*(tag(f"{i}", i) for i in range(100))))) == 100
    with pytest.raises(FormatError, match="more than 100 tags"):
        values(tag_file(*(tag(f"{i}", i) for i in range(101))))
    monkeypatch.setattr(_dmtags, "MAX_KEPT_BYTES", 1000)
    text = infos(4, 20, 10, 400) + b"x" * 400
    assert [v.raw == b"x" * 400 for v in values(tag_file(*(tag(f"{i}", text) for i in range(4)))).values()] == [True, True, False, False]
    with pytest.raises(FormatError, match="more than 1000 bytes of names and short arrays"):
        values(tag_file(tag("x" * 600, 1), tag("x" * 600, 2)))


@pytest.mark.parametrize("version", [3, 4])
def test_every_prefix_is_refused_until_all_tags_are_there(version):
    whole = tag_file(group("G", tag("n", 7, version), tag("t", infos(version, 20, 4, 2) + b"a\0b\0", version), version=version),
                     tag("s", infos(version, 15, 0, 1, 0, 6) + bytes(4), version), version=version)
    expected = values(whole)
    for n in range(len(whole) - 8):
        with pytest.raises(FormatError, match=r"^a\.dm4"):
            values(whole[:n])
    for n in range(len(whole) - 8, len(whole)):     # the zeros at the end of the file say nothing
        assert values(whole[:n]) == expected


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=9)), max_size=5))
def test_damage_gives_tags_inside_the_file_or_an_error(damage):
    content = bytearray(GOOD)
    for at, new in damage:
        content[at:at + len(new)] = new
    try:
        found = values(bytes(content))
    except DataSetException as problem:
        assert "\n" not in str(problem)
    else:
        assert all(v.offset + v.n_bytes <= len(content) for v in found.values() if isinstance(v, Array))


@pytest.mark.skipif(not (FOLDER / "dm").is_dir(), reason="GPUIO_REAL_DATA does not name a folder with recordings")
@pytest.mark.parametrize(("name", "image", "dtype", "count", "offset", "total"), [
    ("2D_test-1.dm4", "1", "<i2", 4, 22963, 10), ("dmTest_3D_int16_64,65,66.dm3", "1", "<i2", 274560, 150628, 8648640),
])
def test_recorded_files(name, image, dtype, count, offset, total):
    from gpuio.source import HostFiles

    (path,) = (FOLDER / "dm").glob(f"**/{name}")
    data = read_tags(HostFiles(), str(path)).values[("ImageList", image, "ImageData", "Data")]
    assert (data.dtype, data.count, data.offset) == (np.dtype(dtype), count, offset)
    assert int(np.fromfile(path, data.dtype, data.count, offset=data.offset).sum(dtype="i8")) == total
