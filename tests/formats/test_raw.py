"""Raw files: parsed layouts against NumPy's view of the same bytes, then whole data sets."""

from __future__ import annotations

import json
import os
import pickle
import warnings

import numpy as np
import pytest

import gpuio
from gpuio.errors import DataSetException, FormatError, ReadError, ShapeError, TruncatedFile, UnsupportedFeature
from gpuio.formats.raw import MAGICS, RawFileDataSet, parse
from gpuio.layout import plain_pieces
from tests.formats.items import DTYPES, assert_same, decoded, random_items
from tests.formats.mib_files import Files

#: Real and complex long double, which are double on some machines.
LONG = ["g", "G"] if np.dtype("g").itemsize > 8 else []
HUNDRED = np.arange(100, dtype="<u2").tobytes()


def framed(array, file_header=b"", frame_header=b"", frame_footer=b""):
    """Bytes of a file of frames, and the sizes around them as `parse` takes them."""
    blob = file_header + b"".join(frame_header + frame.tobytes() + frame_footer for frame in array)
    return blob, {"file_header": len(file_header), "frame_header": len(frame_header), "frame_footer": len(frame_footer)}


# -- layouts ----------------------------------------------------------------------------------------------------------


def test_worked_example_of_little_endian_frames():
    layout = parse(Files({"a.raw": HUNDRED}), "a.raw", dtype="<u2", stored_shape=(3, 4))
    frames = decoded(layout, {"a.raw": HUNDRED})
    assert layout.image_count == 8
    assert frames[:4].sum(axis=(1, 2)).tolist() == [66, 210, 354, 498]
    assert frames[3, 1, 2] == 42
    assert layout.notes == ("8 bytes follow 8 whole frames; a frame of shape (3, 4) and dtype <u2 has 24 bytes, so these are not used",)


def test_worked_example_of_the_same_bytes_read_big_endian():
    frames = decoded(parse(Files({"a.raw": HUNDRED}), "a.raw", dtype=">u2", stored_shape=(3, 4)), {"a.raw": HUNDRED})
    assert frames[0, 0, 1] == 256
    assert frames[:4].sum(axis=(1, 2)).tolist() == [16896, 53760, 90624, 127488]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sig_shape", [(3, 7), (11,), (2, 3, 5)])
def test_frames_are_those_that_numpy_maps(tmp_path, dtype, sig_shape):
    array = random_items(1, (13, *sig_shape), dtype)
    path = tmp_path / "a.raw"
    path.write_bytes(array.tobytes())
    layout = parse(Files({str(path): path.read_bytes()}), str(path), dtype=dtype, stored_shape=sig_shape)
    assert layout.image_count == 13
    assert layout.nav_shape is None
    assert layout.notes == ()
    assert_same(decoded(layout, {str(path): path.read_bytes()}), np.memmap(path, dtype, "r", shape=array.shape))


@pytest.mark.parametrize(("file_header", "frame_header", "frame_footer"), [(5, 0, 0), (0, 3, 0), (0, 0, 7), (1, 13, 2), (4096, 384, 16)])
def test_headers_and_footers_of_any_size_are_left_out(file_header, frame_header, frame_footer):
    rng = np.random.default_rng(2)
    array = random_items(3, (5, 3, 7), ">u2")
    blob, sizes = framed(array, rng.bytes(file_header), rng.bytes(frame_header), rng.bytes(frame_footer))
    layout = parse(Files({"a": blob}), "a", dtype=">u2", stored_shape=(3, 7), **sizes)
    assert layout.notes == ()
    assert_same(decoded(layout, {"a": blob}), array)


@pytest.mark.parametrize("missing", [1, 6])
def test_a_footer_missing_at_the_end_is_no_loss(missing):
    array = random_items(3, (5, 3, 7), "u2")
    blob, sizes = framed(array, frame_footer=b"footer")
    layout = parse(Files({"a": blob[:-missing]}), "a", dtype="u2", stored_shape=(3, 7), **sizes)
    assert layout.notes == ()
    assert_same(decoded(layout, {"a": blob[:-missing]}), array)


def test_several_files_are_one_series_in_the_given_order():
    array = random_items(4, (10, 3, 7), "<i4")
    files, sizes = {}, {}
    for name, frames in (("scan10", array[:2]), ("scan9", array[2:9]), ("scan1", array[9:])):
        files[name], sizes = framed(frames, b"head", b"h", b"fo")
    layout = parse(Files(files), list(files), dtype="<i4", stored_shape=(3, 7), **sizes)
    assert layout.parts[0].paths == ["scan10", "scan9", "scan1"]
    assert_same(decoded(layout, files), array)


def test_the_last_file_of_a_series_may_end_inside_a_frame_others_may_not():
    frame = random_items(5, (21,), "u1").tobytes()
    files = {"a": frame * 2, "b": frame + frame[:-1]}
    layout = parse(Files(files), ["a", "b"], dtype="u1", stored_shape=(3, 7))
    assert layout.image_count == 3
    assert "20 bytes follow 1 whole frames" in layout.notes[0]
    with pytest.raises(FormatError, match=r"^b: 20 bytes follow 1 whole frames.*expected whole frames only"):
        parse(Files(files), ["b", "a"], dtype="u1", stored_shape=(3, 7))


def test_a_file_that_is_named_twice_is_read_twice():
    array = random_items(5, (2, 3, 7), "u1")
    layout = parse(Files({"a": array.tobytes()}), ["a", "a"], dtype="u1", stored_shape=(3, 7))
    assert_same(decoded(layout, {"a": array.tobytes()}), np.concatenate([array, array]))


@pytest.mark.parametrize(("stored", "wanted"), [
    ((13, 7), (11, 7)), ((13, 7), (13, 5)), ((13, 7), (11, 5)), ((13, 7), (1, 1)), ((17,), (11,)),
    ((3, 5, 7), (2, 5, 7)), ((3, 5, 7), (3, 4, 7)), ((3, 5, 7), (2, 3, 4)), ((3, 5, 7), (3, 5, 6)), ((3, 5, 7), (2, 5, 6)),
    ((2, 3, 5, 7), (2, 2, 5, 6)), ((2, 3, 5, 7), (1, 3, 4, 7)), ((2, 3, 5, 7), (2, 3, 4, 6)), ((2, 3, 5, 2, 7), (1, 3, 4, 2, 6)),
])
def test_a_crop_takes_the_first_rows_and_columns(stored, wanted):
    array = random_items(6, (4, *stored), "<u2")
    blob, sizes = framed(array, frame_footer=b"123")
    layout = parse(Files({"a": blob}), "a", dtype="<u2", stored_shape=stored, sig_shape=wanted, **sizes)
    assert layout.sig_shape == wanted
    assert len(layout.pieces) == 1
    assert_same(decoded(layout, {"a": blob}), array[(slice(None), *map(slice, wanted))])


def test_a_crop_of_rows_stays_a_plain_piece_that_can_be_mapped():
    layout = parse(Files({"a": bytes(260)}), "a", dtype="u1", stored_shape=(130, 2), sig_shape=(128, 2))
    assert layout.pieces == plain_pieces((128, 2), 2)


def test_a_crop_along_four_axes_is_refused():
    with pytest.raises(UnsupportedFeature, match=r"^a: .*cut along too many axes"):
        parse(Files({"a": bytes(81)}), "a", dtype="u1", stored_shape=(3, 3, 3, 3), sig_shape=(2, 2, 2, 2))


@pytest.mark.parametrize("wanted", [(14, 7), (13, 8), (91,), (1, 13, 7)])
def test_a_crop_that_is_no_part_of_the_frame_is_refused(wanted):
    with pytest.raises(ShapeError, match=r"^a: .*cannot be cut from stored frames of shape \(13, 7\)"):
        parse(Files({"a": bytes(91)}), "a", dtype="u1", stored_shape=(13, 7), sig_shape=wanted)


def test_only_sizes_and_the_first_bytes_are_asked_for():
    files = Files({name: bytes(100) for name in "abc"})
    parse(files, list("abc"), dtype="u1", stored_shape=(5, 2))
    assert files.reads == [("a", 0, 16)]


def test_facts_become_metadata():
    layout = parse(Files({"a": bytes(47)}), "a", dtype=">u2", stored_shape=(2, 5))
    assert dict(layout.metadata) == {"dtype_on_disk": ">u2", "size_bytes": 47, "unused_bytes": 7}


# -- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 41])
def test_less_than_a_frame_is_refused_with_both_sizes(size):
    with pytest.raises(TruncatedFile, match=rf"^a: holds {size} bytes; one frame of shape \(3, 7\) and dtype <u2 needs 42 bytes"):
        parse(Files({"a": bytes(size)}), "a", dtype="<u2", stored_shape=(3, 7))


def test_less_than_a_frame_behind_headers_is_refused_with_all_sizes():
    with pytest.raises(TruncatedFile, match=r"holds 54 bytes.* and headers of 10 \+ 3 bytes needs 55 bytes"):
        parse(Files({"a": bytes(54)}), "a", dtype="<u2", stored_shape=(3, 7), file_header=10, frame_header=3, frame_footer=8)


def test_no_size_overflows():
    huge = (2**40, 2**40)
    with pytest.raises(TruncatedFile, match=f"needs {2**83 + 2**70} bytes"):
        parse(Files({"a": bytes(100)}), "a", dtype="f8", stored_shape=huge, file_header=2**70)


def test_every_prefix_of_a_file_gives_whole_frames_or_an_error():
    array = random_items(7, (3, 2, 5), ">u4")
    blob, sizes = framed(array, b"headr", b"abc", b"fo")
    for n in range(len(blob)):
        complete = max(0, n - 5 + 2) // 45
        if complete:
            layout = parse(Files({"a": blob[:n]}), "a", dtype=">u4", stored_shape=(2, 5), **sizes)
            assert_same(decoded(layout, {"a": blob[:n]}), array[:complete])
        else:
            with pytest.raises(TruncatedFile):
                parse(Files({"a": blob[:n]}), "a", dtype=">u4", stored_shape=(2, 5), **sizes)


def test_the_shape_of_the_expected_number_of_frames_is_proposed():
    blob = bytes(6 * 128 * 130 * 2)
    layout = parse(Files({"a": blob}), "a", dtype="u2", stored_shape=(128, 128), nav_shape=(2, 3))
    assert layout.notes[0].endswith("; frames of (128, 130) would fit exactly")


def test_common_detectors_are_proposed_nearest_first():
    blob = bytes(4 * 256 * 256)
    with pytest.raises(TruncatedFile) as error:
        parse(Files({"a": blob}), "a", dtype="u2", stored_shape=(1000, 1000))
    assert str(error.value).endswith("; frames of (256, 256) or (128, 128) or (64, 64) would fit exactly")


@pytest.mark.parametrize("dtype", ["O", "S3", "U2", "M8[s]", "m8[ns]", "V4", "u1,u2", "3u1", *LONG])
def test_dtypes_that_are_no_numbers_are_refused(dtype):
    with pytest.raises(UnsupportedFeature, match=r"^a: dtype .*expected"):
        parse(Files({"a": bytes(100)}), "a", dtype=dtype, stored_shape=(2,))


@pytest.mark.parametrize("dtype", ["u12", "uint7", "", "nonsense", "f3", 17, None])
def test_dtypes_that_are_none_are_refused_with_the_accepted_kinds(dtype):
    with pytest.raises(UnsupportedFeature, match=r"^a: .*dtype.*expected bool, int, uint, float or complex"):
        parse(Files({"a": bytes(100)}), "a", dtype=dtype, stored_shape=(2,))


def test_an_empty_list_of_files_is_refused():
    with pytest.raises(DataSetException, match="list of paths is empty"):
        parse(Files(), [], dtype="u1", stored_shape=(2,))


@pytest.mark.parametrize(("magic", "what", "name"), MAGICS)
def test_a_file_of_another_format_warns(magic, what, name):
    files = Files({"a": magic + bytes(100)})
    with pytest.warns(UserWarning, match="^a: looks like ") as caught:
        parse(files, "a", dtype="u1", stored_shape=(2, 3))
    remedy = f"gpuio.load('{name}', ...) reads it" if name in gpuio.formats() else "its bytes are taken for pixels"
    assert [str(w.message) for w in caught] == [f"a: looks like {what}; {remedy}"]


@pytest.mark.parametrize("name", ["npy", "mib"])
def test_the_name_of_a_format_in_the_warning_can_be_loaded(name):
    assert name in {row[2] for row in MAGICS} & set(gpuio.formats())


def test_whoever_leaves_out_a_header_knows_of_it():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parse(Files({"a": b"\x93NUMPY" + bytes(200)}), "a", dtype="u1", stored_shape=(2, 3), file_header=128)
        parse(Files({"a": b"\x93numpy" + bytes(200)}), "a", dtype="u1", stored_shape=(2, 3))


# -- the data set -----------------------------------------------------------------------------------------------------


def load(path, **kwargs):
    return gpuio.load("raw", path=path, device="cpu", **kwargs)


def test_the_constructor_touches_no_file():
    ds = RawFileDataSet("/nowhere/a.raw", "u2", nav_shape=(2, 3), sig_shape=(4, 5))
    assert ds.meta is None
    with pytest.raises(FileNotFoundError):
        ds.initialize()


def test_a_sig_shape_is_required():
    with pytest.raises(ShapeError, match="no sig_shape is given"):
        RawFileDataSet("a", "u1", nav_shape=(2, 3))


def test_former_names_mean_the_same(tmp_path):
    array = random_items(8, (2, 3, 5, 7), "u2")
    path = tmp_path / "a.raw"
    path.write_bytes(array.tobytes())
    with pytest.warns(FutureWarning) as caught:
        ds = load(path, dtype="u2", scan_size=(2, 3), detector_size=(5, 7), tileshape=(1, 5, 7))
    assert sorted(str(w.message).split()[0] for w in caught) == ["detector_size", "scan_size", "tileshape"]
    assert_same(ds[...], array)


def test_enable_direct_is_the_direct_backend():
    with pytest.warns(FutureWarning, match="enable_direct"):
        ds = RawFileDataSet("a", "u1", enable_direct=True, sig_shape=(2, 3))
    assert ds.get_io_backend().id_ == "direct"
    with pytest.raises(ValueError, match="enable_direct is the former name of io_backend"):
        RawFileDataSet("a", "u1", enable_direct=True, sig_shape=(2, 3), io_backend=ds.get_io_backend())


@pytest.mark.parametrize(("arguments", "stored", "wanted"), [
    ({"sig_shape": (5, 7)}, (5, 7), (5, 7)),
    ({"detector_size_raw": (5, 7)}, (5, 7), (5, 7)),
    ({"crop_detector_to": (5, 7)}, (5, 7), (5, 7)),
    ({"sig_shape": (5, 7), "detector_size_raw": (6, 7)}, (6, 7), (5, 7)),
    ({"sig_shape": (6, 7), "crop_detector_to": (5, 7)}, (6, 7), (5, 7)),
    ({"detector_size_raw": (6, 7), "crop_detector_to": (5, 7)}, (6, 7), (5, 7)),
    ({"sig_shape": (5, 7), "detector_size_raw": (6, 7), "crop_detector_to": (5, 7)}, (6, 7), (5, 7)),
    ({"sig_shape": (6, 7), "detector_size_raw": (6, 7), "crop_detector_to": (5, 7)}, (6, 7), (5, 7)),
])
def test_stored_and_wanted_shape_of_the_detector(tmp_path, arguments, stored, wanted):
    array = random_items(9, (3, *stored), "u1")
    path = tmp_path / "a.raw"
    path.write_bytes(array.tobytes())
    ds = load(path, dtype="u1", nav_shape=(3,), **arguments)
    assert_same(ds[...], array[:, :wanted[0], :wanted[1]])


@pytest.mark.parametrize("wanted", [(2, 4, 6), (3, 5, 6), (1, 5, 7), (3, 1, 7)])
def test_a_crop_of_three_axes(tmp_path, wanted):
    array = random_items(9, (3, 3, 5, 7), ">u2")
    path = tmp_path / "a.raw"
    path.write_bytes(array.tobytes())
    ds = load(path, dtype=">u2", nav_shape=(3,), detector_size_raw=(3, 5, 7), crop_detector_to=wanted)
    assert_same(ds[...], array[(slice(None), *map(slice, wanted))])


def test_three_different_shapes_of_the_detector_are_refused():
    with pytest.raises(ShapeError, match=r"sig_shape \(4, 7\) is neither"):
        RawFileDataSet("a", "u1", sig_shape=(4, 7), detector_size_raw=(6, 7), crop_detector_to=(5, 7))


@pytest.mark.parametrize("dtype", DTYPES)
def test_scans_come_back_exactly(tmp_path, dtype):
    array = random_items(10, (3, 5, 7, 11), dtype)
    path = tmp_path / "a.raw"
    path.write_bytes(array.tobytes())
    ds = load(path, dtype=dtype, nav_shape=(3, 5), sig_shape=(7, 11))
    assert_same(ds[...], array)
    assert_same(ds[1, 2:4], array[1, 2:4])


@pytest.mark.parametrize("sync_offset", [0, 2, 14, -2, -14])
@pytest.mark.parametrize("nav_shape", [(3, 5), (2, 5), (4, 5)])
def test_the_scan_moves_by_the_sync_offset_and_the_rest_is_blank(tmp_path, sync_offset, nav_shape):
    array = random_items(11, (15, 7, 11), "<u2") | 1       # no pixel is zero
    path = tmp_path / "a.raw"
    path.write_bytes(array.tobytes())
    ds = load(path, dtype="<u2", nav_shape=nav_shape, sig_shape=(7, 11), sync_offset=sync_offset)
    expected = np.zeros((nav_shape[0] * nav_shape[1], 7, 11), "<u2")
    for i in range(len(expected)):
        if 0 <= i + sync_offset < 15:
            expected[i] = array[i + sync_offset]
    assert_same(ds[...], expected.reshape(*nav_shape, 7, 11))


@pytest.mark.parametrize("sync_offset", [15, -15, 100])
def test_a_sync_offset_outside_of_the_data_is_refused_with_the_range(tmp_path, sync_offset):
    (tmp_path / "a.raw").write_bytes(bytes(15 * 6))
    with pytest.raises(ShapeError, match=r"\(-15, 15\)"):
        load(tmp_path / "a.raw", dtype="u1", nav_shape=(3, 5), sig_shape=(2, 3), sync_offset=sync_offset)


def test_tiles_of_several_files_with_headers(tmp_path):
    array = random_items(12, (23, 7, 11), ">u2")
    rng = np.random.default_rng(13)
    paths = []
    for number, frames in enumerate(np.split(array, [5, 6, 17])):
        blob, sizes = framed(frames, rng.bytes(13), rng.bytes(5), rng.bytes(3))
        paths.append(tmp_path / f"part{number}.bin")
        paths[-1].write_bytes(blob)
    ds = load(paths, dtype=">u2", nav_shape=(23,), sig_shape=(7, 11), **sizes)
    found = np.full((23, 7, 11), -1, "f4")
    for tile in ds.tiles(dtype="float32", depth=4):
        first = tile.tile_slice.origin[0]
        found[first:first + len(tile.data)] = tile.data
    np.testing.assert_array_equal(found, array.astype("f4"))
    assert ds.files == [str(p) for p in paths]


def test_a_square_scan_is_guessed_without_a_nav_shape(tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(9 * 6))
    (tmp_path / "b.raw").write_bytes(bytes(10 * 6))
    assert load(tmp_path / "a.raw", dtype="u1", sig_shape=(2, 3)).shape.nav.to_tuple() == (3, 3)
    assert load(tmp_path / "b.raw", dtype="u1", sig_shape=(2, 3)).shape.nav.to_tuple() == (10,)


def test_a_data_set_pickles_small_and_reads_again(tmp_path):
    array = random_items(14, (6, 7, 11), "i2")
    (tmp_path / "a.raw").write_bytes(array.tobytes())
    blob = pickle.dumps(load(tmp_path / "a.raw", dtype="i2", nav_shape=(2, 3), sig_shape=(7, 11)))
    assert len(blob) < 4096
    assert_same(pickle.loads(blob)[...], array.reshape(2, 3, 7, 11))


def test_the_cache_key_differs_wherever_pixels_do(tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    changes = [{}, {"dtype": ">u2"}, {"nav_shape": (3,)}, {"sync_offset": 1}, {"file_header": 1}, {"frame_header": 1}, {"frame_footer": 1},
               {"detector_size_raw": (5, 4)}, {"sig_shape": (4, 3)}]
    keys = set()
    for change in changes:
        ds = load(tmp_path / "a.raw", **{"dtype": "<u2", "nav_shape": (2,), "sig_shape": (3, 4), **change})
        keys.add(json.dumps(ds.get_cache_key(), sort_keys=True))
    assert len(keys) == len(changes)


def test_messages_become_arguments():
    import jsonschema

    converter = RawFileDataSet.get_msg_converter()()
    message = {"type": "RAW", "path": "p", "nav_shape": [2, 3], "sig_shape": [4, 5], "dtype": "u2", "sync_offset": -1}
    arguments = converter.to_python(message)
    assert arguments == {"path": "p", "nav_shape": (2, 3), "sig_shape": (4, 5), "dtype": "u2", "sync_offset": -1}
    assert RawFileDataSet(**arguments)._nav_shape == (2, 3)
    for key in ("path", "nav_shape", "sig_shape", "dtype"):
        with pytest.raises(jsonschema.ValidationError):
            converter.to_python({k: v for k, v in message.items() if k != key})


def test_folders_and_pipes_are_refused_by_name(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, kind in (("pipe", "a pipe"), (".", "a folder")):
        with pytest.raises(DataSetException, match=f"is {kind}; expected a regular file"):
            load(str(tmp_path / name), dtype="u1", nav_shape=(1,), sig_shape=(2, 3))


def test_a_missing_file_is_the_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.raw"):
        load(tmp_path / "missing.raw", dtype="u1", nav_shape=(1,), sig_shape=(2, 3))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_the_error_of_the_system(tmp_path):
    path = tmp_path / "a.raw"
    path.write_bytes(bytes(100))
    path.chmod(0)
    with pytest.raises(PermissionError, match=r"a\.raw"):
        load(path, dtype="u1", nav_shape=(1,), sig_shape=(2, 3))


@pytest.mark.parametrize("io_backend", ["mmap", "buffered"])
def test_a_file_that_shrinks_while_open_is_an_error_and_no_old_pixels(tmp_path, io_backend):
    from gpuio.io.backends import IOBackend

    array = random_items(15, (64, 64, 64), "u2")
    path = tmp_path / "a.raw"
    path.write_bytes(array.tobytes())
    ds = load(path, dtype="u2", nav_shape=(64,), sig_shape=(64, 64), io_backend=IOBackend.get_cls_by_id(io_backend)())
    assert_same(ds[60], array[60])
    os.truncate(path, 40 * 8192 + 100)
    with pytest.raises(ReadError, match=r"a\.raw"):
        ds[60]
