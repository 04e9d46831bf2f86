"""NumPy files that are damaged, truncated, hostile, or something else."""

from __future__ import annotations

import io
import os
import pickle

import numpy as np
import pytest

from gpuio.errors import DataSetException, FormatError, ShapeError, TruncatedFile, UnsupportedFeature
from tests.formats.items import assert_same, decoded, random_items
from tests.formats.npy_files import DATA, GOOD, layout_of, packed, saved

# -- bad headers ------------------------------------------------------------------------------------------------------


def header_with(**changes):
    """Header text with some values replaced (by source text) or left out (None)."""
    fields = {"descr": "'<u2'", "fortran_order": "False", "shape": "(2, 3, 4, 5)", **changes}
    return "{" + ", ".join(f"'{k}': {v}" for k, v in fields.items() if v is not None) + "}"


@pytest.mark.parametrize(("blob", "error", "message"), [
    (b"", FormatError, "is empty"),
    (b"\x93NUMPX" + bytes(100), FormatError, "is no NumPy file: begins with 93 4e 55 4d 50 58"),
    (b"\x1f\x8b\x08" + bytes(100), FormatError, "gzip"),
    (pickle.dumps(np.arange(3), protocol=2), FormatError, "pickle"),
    (pickle.dumps(np.arange(3), protocol=5), FormatError, "pickle"),
    (packed(GOOD, DATA, version=(9, 0)), FormatError, "NPY version 9.0; expected 1.0, 2.0 or 3.0"),
    (packed(GOOD, DATA, version=(1, 1)), FormatError, "NPY version 1.1"),
    (packed(GOOD, DATA, version=(0, 0)), FormatError, "NPY version 0.0"),
    (packed(GOOD, length=9999), TruncatedFile, f"ends after {len(GOOD)} of 9999 bytes of header text"),
    (packed(GOOD, DATA, length=10001), FormatError, "10001 bytes; expected at most 10000"),
    (packed(GOOD, DATA, version=(2, 0), length=2**32 - 1), FormatError, "4294967295 bytes; expected at most 10000"),
    (packed(b"{'descr': '\xff'}", version=(3, 0)), FormatError, "damaged.*utf-8"),
    (packed("", DATA), FormatError, "damaged: 'end of text' where a value is expected"),
    (packed("{", DATA), FormatError, "damaged"),
    (packed("[" * 9000, DATA), FormatError, "damaged"),
    (packed("{'a': " * 1500, DATA), FormatError, "damaged"),
    (packed("[1, 2]", DATA), FormatError, "holds list; expected a dict with the keys descr, fortran_order, shape"),
    (packed("'text'", DATA), FormatError, "holds str; expected a dict"),
    (packed(GOOD + "{}", DATA), FormatError, "damaged.*after the end"),
    (packed(GOOD[:-1], DATA), FormatError, "damaged.*where a comma or '}' is expected|damaged"),
    (packed("dict(shape=(2,))", DATA), FormatError, "damaged"),
    (packed(header_with(descr=None), DATA), FormatError, r"holds \['fortran_order', 'shape'\]; expected"),
    (packed(header_with(fortran_order=None), DATA), FormatError, r"holds \['descr', 'shape'\]; expected"),
    (packed(header_with(shape=None), DATA), FormatError, r"holds \['descr', 'fortran_order'\]; expected"),
    (packed(header_with(extra="1"), DATA), FormatError, "holds .*'extra'.*; expected"),
    (packed(GOOD[:-1] + "'shape': (2,)}", DATA), FormatError, "key 'shape' is there twice"),
    (packed("{1: 2}", DATA), FormatError, "damaged: 1 is no key"),
    (packed(header_with(fortran_order="0"), DATA), FormatError, "fortran_order is 0; expected True or False"),
    (packed(header_with(fortran_order="None"), DATA), FormatError, "fortran_order is None"),
    (packed(header_with(shape="[2, 3]"), DATA), FormatError, r"shape is \[2, 3\]; expected a tuple"),
    (packed(header_with(shape="(6)"), DATA), FormatError, "shape is 6; expected a tuple"),
    (packed(header_with(shape="(2, -3)"), DATA), FormatError, r"shape is \(2, -3\)"),
    (packed(header_with(shape="(2, True)"), DATA), FormatError, r"shape is \(2, True\)"),
    (packed(header_with(shape="(2, None)"), DATA), FormatError, r"shape is \(2, None\)"),
    (packed(header_with(shape="(2.0, 3)"), DATA), FormatError, "damaged"),
    (packed(header_with(shape="(2e3, 3)"), DATA), FormatError, "damaged"),
    (packed(header_with(shape="(2 3)"), DATA), FormatError, "damaged.*where a comma"),
    (packed(header_with(shape="(2,,3)"), DATA), FormatError, "damaged"),
    (packed(header_with(shape="(,)"), DATA), FormatError, "damaged"),
    (packed(header_with(shape="(__import__('os').getpid(), 3)"), DATA), FormatError, "damaged"),
    (packed(header_with(shape="(" + "9" * 5000 + ", 3)"), DATA), FormatError, "damaged"),
    (packed(header_with(shape="(" + "1, " * 65 + ")"), DATA), FormatError, "shape has 65 axes; expected at most 64"),
    (packed(header_with(shape="(0, 4, 4)"), b""), FormatError, r"the array of shape \(0, 4, 4\) is empty"),
    (packed(header_with(shape=f"({2**32}, {2**32}, 4)"), DATA), TruncatedFile, f"holds 240 bytes of pixels; expected {2**67} "),
    (packed(header_with(shape=f"({10**19}, {10**19}, {10**19})"), DATA), TruncatedFile, f"expected {2 * 10**57} "),
    (packed(header_with(descr="3"), DATA), FormatError, "descr is 3; expected a dtype as text"),
    (packed(header_with(descr="''"), DATA), FormatError, "descr is ''"),
    (packed(header_with(descr="'u2,u2'"), DATA), FormatError, "descr is 'u2,u2'"),
    (packed(header_with(descr="'<f3'"), DATA), FormatError, "descr is '<f3'"),
    (packed(header_with(descr="'(3)u2'"), DATA), FormatError, "descr is"),
    (packed(header_with(descr="'<u999999999'"), DATA), FormatError, "descr is"),
    (packed(header_with(descr="'|O'"), DATA), UnsupportedFeature, r"holds Python objects \(a pickle\), which are not loaded for safety"),
    (packed(header_with(descr="'O8'"), DATA), UnsupportedFeature, "holds Python objects"),
    (packed(header_with(descr="'<V2'"), DATA), UnsupportedFeature, "cannot be decoded"),
    (packed(header_with(descr="'|S3'"), DATA), UnsupportedFeature, "cannot be decoded"),
    (packed(header_with(descr="'<U3'"), DATA), UnsupportedFeature, "cannot be decoded"),
    (packed(header_with(descr="'<M8[ns]'"), DATA), UnsupportedFeature, "cannot be decoded"),
    (packed(header_with(descr="'<m8[s]'"), DATA), UnsupportedFeature, "cannot be decoded"),
    (packed(header_with(descr="[('r', '|u1'), ('g', '|u1')]"), DATA), UnsupportedFeature, "holds records"),
    (packed(header_with(shape="()"), DATA), ShapeError, r"shape \(\) has 0 axes; expected at least sig_dims=2"),
    (packed(header_with(shape="(7,)"), DATA), ShapeError, r"shape \(7,\) has 1 axes; expected at least sig_dims=2"),
])
def test_bad_files_are_refused_with_one_clear_line(blob, error, message):
    with pytest.raises(error, match=message) as caught:
        layout_of(blob)
    assert str(caught.value).startswith("a.npy: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.skipif(np.dtype("g").itemsize == 8, reason="long double is double on this machine")
@pytest.mark.parametrize("dtype", ["g", "G"])
def test_long_doubles_are_refused(dtype):
    with pytest.raises(UnsupportedFeature, match="cannot be decoded"):
        layout_of(saved(np.zeros((2, 3, 4), dtype)))


def test_objects_are_never_unpickled():
    class Bomb:
        def __reduce__(self):
            return os.abort, ()

    file = io.BytesIO()
    np.save(file, np.array([[Bomb()]], dtype=object), allow_pickle=True)
    with pytest.raises(UnsupportedFeature, match="not loaded for safety"):
        layout_of(file.getvalue())


def test_an_archive_is_refused_with_the_names_it_holds():
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, scan=np.arange(100), reference=np.arange(7))
        with pytest.raises(FormatError, match=r"zip archive, probably \.npz with 2 arrays \('scan', 'reference'\); expected one array"):
            layout_of(file.getvalue())
    with pytest.raises(FormatError, match=r"zip archive, probably \.npz; expected one array"):
        layout_of(b"PK\x03\x04" + bytes(100))


@pytest.mark.parametrize("order", ["C", "F"])
def test_every_prefix_of_a_file_is_refused(order):
    blob = saved(np.asarray(random_items(11, (2, 3, 4), "u2"), order=order))
    for n in range(len(blob)):
        with pytest.raises(FormatError, match=r"^a\.npy: "):
            layout_of(blob[:n])
    assert layout_of(blob).image_count == 2


def test_damaged_headers_give_a_layout_inside_the_file_or_an_error():
    blob = saved(random_items(12, (2, 3, 4), "u2"))
    rng = np.random.default_rng(13)
    read = 0
    for _ in range(3000):
        damaged = bytearray(blob)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(0, 128)] = rng.choice(bytearray(b"0123456789'(),{}:LTF<>u \x00\xff") if rng.random() < 0.8 else range(256))
        try:
            layout = layout_of(bytes(damaged))
        except DataSetException:
            continue
        item = layout.dtype.itemsize * layout.sig_size * layout.image_count
        assert layout.metadata["data_offset_bytes"] + item <= len(damaged)
        read += 1
    assert 0 < read < 3000


# -- truncated data ---------------------------------------------------------------------------------------------------


def test_truncated_data_are_refused_with_what_is_there():
    blob = saved(random_items(14, (3, 5, 7, 11), "u2"))
    with pytest.raises(TruncatedFile, match=r"holds 1999 bytes of pixels; expected 2310 .*; 12 of 15 frames are whole, pass allow_tr"):
        layout_of(blob[:128 + 1999])


def test_whole_frames_of_truncated_data_are_loaded_on_request():
    array = random_items(14, (3, 5, 7, 11), "u2")
    blob = saved(array)[:128 + 1999]
    layout = layout_of(blob, allow_truncated=True)
    assert (layout.nav_shape, layout.image_count) == ((3, 5), 12)
    assert layout.notes == ("the file is truncated: 1999 of 2310 bytes of pixels are there; 12 whole frames are used",)
    assert_same(decoded(layout, {"a.npy": blob}), array.reshape(15, 7, 11)[:12])


def test_truncated_data_without_a_whole_frame_are_refused_even_on_request():
    blob = saved(random_items(14, (3, 5, 7, 11), "u2"))
    with pytest.raises(TruncatedFile, match="not one frame of 154 bytes is whole"):
        layout_of(blob[:128 + 153], allow_truncated=True)


def test_truncated_fortran_order_has_no_whole_frames():
    blob = saved(np.asfortranarray(random_items(14, (3, 5, 7, 11), "u2")))
    with pytest.raises(TruncatedFile, match="no frame is whole, as the array is in Fortran order"):
        layout_of(blob[:-1], allow_truncated=True)
