"""DM3 and DM4: files put together by hand, every dtype, either order of axes, lists of files, every way to the pixels."""

from __future__ import annotations

import pickle

import jsonschema
import numpy as np
import pytest

import gpuio
from gpuio import synth
from gpuio.errors import DataSetException, ShapeError
from gpuio.formats import _dmtags
from gpuio.formats.dm import DMDataSet, parse, parse_stack, sniff
from tests.formats.dm_files import TYPES, Dm
from tests.formats.every_way import BACKENDS, check_every_way
from tests.formats.items import assert_same, decoded, random_items
from tests.formats.mib_files import Files

NAV, SIG = (3, 5), (7, 11)


def layout_of(blob, **kwargs):
    return parse(Files({"a.dm4": blob}), "a.dm4", **kwargs)


def seen(blob, **kwargs):
    """All frames in the shape that is said."""
    layout = layout_of(blob, **kwargs)
    return decoded(layout, {"a.dm4": blob}).reshape(*layout.nav_shape, *layout.sig_shape)


def nav_fastest(scan):
    """A scan [nav y, nav x, sig y, sig x] in the order of older files."""
    return np.ascontiguousarray(scan.transpose(2, 3, 0, 1))


# -- pixels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("swapped", [False, True])
def test_pixels_of_every_dtype_version_byte_order_and_order_of_axes(tmp_path, dtype, version, order, swapped):
    scan = random_items(1, (*NAV, *SIG), dtype)
    dm = Dm(version, order)
    blob = dm.file(dm.thumbnail(), dm.image(scan if swapped else nav_fastest(scan), tags=[dm.swapped(swapped)]), previews=[0])
    assert_same(seen(blob), scan)
    assert (layout_of(blob).strided is None) == swapped
    (tmp_path / "a.dat").write_bytes(blob)
    ds = gpuio.open(tmp_path / "a.dat", device="cpu")
    assert (ds.format, tuple(ds.shape)) == ("dm", (*NAV, *SIG))
    assert_same(ds[...], scan)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dtype", "options", "sync_offset"), [
    ("<u2", {"version": 3}, 0), (">i4", {}, -3), ("f4", {"survey": (50, 60)}, 4), ("<u2", {"transposed": True}, 0),
    (">f4", {"transposed": True, "version": 3}, -2), ("u1", {"transposed": True}, 3),
])
def test_every_way_to_the_pixels(tmp_path, backend, dtype, options, sync_offset):
    frames = random_items(2, (21, 11, 13), dtype)
    path = str(tmp_path / "a.dm4")
    synth.write("dm", path, [frames[:4], frames[4:]], nav_shape=(3, 7), sig_shape=(11, 13), **options)
    check_every_way(lambda **kwargs: gpuio.load("dm", path=path, device="cpu", **kwargs), frames.astype(frames.dtype.newbyteorder("=")),
                    backend, sync_offset, tile=(3, 4, 13))


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_way_to_a_list_of_files(tmp_path, backend):
    frames = random_items(3, (23, 11, 13), "u2")
    paths = synth.write("dm", tmp_path / "a.dm4", [frames[:7], frames[7:]], nav_shape=(23,), sig_shape=(11, 13), frames_per_file=3)
    assert len(paths) == 8
    check_every_way(lambda **kwargs: gpuio.load("dm", files=paths, nav_shape=(3, 7), device="cpu", **kwargs), frames, backend, 1,
                    tile=(3, 4, 13))


# -- one file ----------------------------------------------------------------------------------------------------------


def test_an_image_is_one_frame_and_a_stack_a_line_of_frames():
    dm = Dm()
    image, stack = random_items(4, SIG, "u2"), random_items(5, (6, *SIG), "f4")
    assert_same(seen(dm.file(dm.image(image))), image[None])
    assert_same(seen(dm.file(dm.image(stack))), stack)


def test_a_spectrum_image_has_one_detector_axis_stored_slowest():
    dm = Dm()
    scan = random_items(6, (3, 5, 17), "f4")
    kind = dm.group("Meta Data", dm.text("Format", "Spectrum image"))
    stored = np.ascontiguousarray(scan.transpose(2, 0, 1))
    assert_same(seen(dm.file(dm.image(stored, tags=[kind]))), scan)
    assert_same(seen(dm.file(dm.image(stored, tags=[kind])), force_c_order=True), stored)


@pytest.mark.parametrize(("units", "strided"), [
    (("1/nm", "1/nm", "µm", "µm"), False), (("nm", "nm", "mrad", "mrad"), True), (("1/nm", "nm", "1/nm", "nm"), None), ((), None),
])
def test_without_the_tag_units_tell_the_order_of_axes(units, strided):
    dm = Dm()
    stored = random_items(7, (2, 3, 5, 7), "u2")
    layout = layout_of(dm.file(dm.image(stored, units=units)))
    assert (layout.strided is not None) == (strided is not False)
    assert layout.nav_shape == ((2, 3) if strided is False else (5, 7))
    assert [note.startswith("the file does not tell which axes") for note in layout.notes].count(True) == (strided is None)


@pytest.mark.parametrize(("height", "width", "nav"), [(2, 3, (2, 3)), (5, 7, (5, 7)), (3, 2, (5, 7))])
def test_without_units_the_sampling_of_the_scan_tells_the_order_of_axes(height, width, nav):
    dm = Dm()
    sampling = dm.group("SI", dm.group("Acquisition", dm.group("Spatial Sampling", dm.u4("Height (pixels)", height),
                                                               dm.u4("Width (pixels)", width))))
    assert layout_of(dm.file(dm.image(random_items(8, (2, 3, 5, 7), "u2"), tags=[sampling]))).nav_shape == nav


@pytest.mark.parametrize("tag", ["flag", "text", "number"])
@pytest.mark.parametrize("state", [False, True])
def test_the_tag_wins_over_units_in_whatever_type_it_is_written(tag, state):
    dm = Dm()
    value = {"flag": dm.flag("Data Order Swapped", state), "text": dm.text("Data Order Swapped", str(state)),
             "number": dm.u4("Data Order Swapped", int(state))}[tag]
    stored = random_items(9, (2, 3, 5, 7), "u2")
    layout = layout_of(dm.file(dm.image(stored, units=("1/nm", "1/nm", "nm", "nm"), tags=[dm.group("Meta Data", value)])))
    assert layout.nav_shape == ((2, 3) if state else (5, 7))


def test_the_order_of_axes_can_be_forced():
    dm = Dm()
    stored = random_items(10, (2, 3, 5, 7), "u2")
    assert_same(seen(dm.file(dm.image(stored, tags=[dm.swapped(False)])), force_c_order=True), stored)


@pytest.mark.parametrize(("x", "y", "nav"), [(3, 2, (2, 3)), (4, 2, (6,)), (0, 0, (6,))])
def test_the_scan_of_a_stack_is_taken_from_its_tags_if_they_fit(x, y, nav):
    dm = Dm()
    scan = dm.group("4D STEM Tags", dm.u4("Scan shape X", x), dm.u4("Scan shape Y", y))
    assert layout_of(dm.file(dm.image(random_items(11, (6, *SIG), "u2"), tags=[scan]))).nav_shape == nav


# -- several images in a file ------------------------------------------------------------------------------------------


def test_a_survey_image_does_not_hide_the_scan():
    dm = Dm()
    survey, scan = random_items(12, (50, 60), "u1"), random_items(13, (2, 3, 5, 7), "u2")
    blob = dm.file(dm.thumbnail(), dm.image(survey), dm.image(scan, tags=[dm.swapped(True)]), previews=[0])
    assert_same(seen(blob), scan)
    assert layout_of(blob).notes == (
        "the file has 2 images, 1: (50, 60) uint8, 2: (2, 3, 5, 7) uint16; image 2 is used, dataset_index chooses another",)
    assert_same(seen(blob, dataset_index=1), survey[None])
    with pytest.raises(DataSetException, match=r"^a\.dm4: has no image 3; it has 1: \(50, 60\) uint8, 2: "):
        layout_of(blob, dataset_index=3)


def test_of_images_with_as_many_axes_the_largest_is_taken():
    dm = Dm()
    small, large = random_items(14, (5, 7), "u2"), random_items(15, (5, 8), "u2")
    assert_same(seen(dm.file(dm.image(small), dm.image(large))), large[None])
    assert_same(seen(dm.file(dm.image(large), dm.image(small))), large[None])


def test_a_preview_that_no_tag_names_is_left_out():
    dm = Dm()
    image = random_items(16, SIG, "u2")
    layout = layout_of(dm.file(dm.thumbnail(), dm.image(image)))
    assert (layout.sig_shape, layout.notes) == (SIG, ())


def test_images_of_types_that_cannot_be_read_do_not_hide_those_that_can():
    dm = Dm()
    image = random_items(17, (5, 7), "u2")
    assert_same(seen(dm.file(dm.image(image), dm.image(random_items(18, (9, 9, 9), "i4"), data_type=8))), image[None])


# -- lists of files ----------------------------------------------------------------------------------------------------


def test_files_of_a_list_keep_their_order_and_may_have_different_numbers_of_frames():
    dm3, dm4 = Dm(3), Dm(4)
    a, b, c = random_items(19, SIG, "u2"), random_items(20, (3, *SIG), "u2"), random_items(21, (2, *SIG), "u2")
    files = Files({"z.dm4": dm4.file(dm4.thumbnail(), dm4.image(a), previews=[0]), "b.dm3": dm3.file(dm3.image(b)),
                   "a.dm4": dm4.file(dm4.image(c))})
    layout = parse_stack(files, ["z.dm4", "b.dm3", "a.dm4"])
    assert layout.nav_shape == (6,)
    assert_same(decoded(layout, files), np.concatenate([a[None], b, c]))


def test_a_list_of_one_file_is_that_file(tmp_path):
    scan = random_items(22, (*NAV, *SIG), "u2")
    path = tmp_path / "a.dm4"
    synth.write("dm", path, [scan.reshape(15, *SIG)], nav_shape=NAV, sig_shape=SIG, transposed=True)
    for arguments in ({"files": [path]}, {"files": str(path)}, {"path": path}, {"files": [str(path)], "same_offset": True}):
        assert_same(gpuio.load("dm", device="cpu", **arguments)[...], scan)


def test_with_same_offset_no_header_but_the_first_is_read():
    dm = Dm()
    frames = random_items(23, (4, *SIG), "u2")
    files = Files({f"{i}.dm4": dm.file(dm.image(frame)) for i, frame in enumerate(frames)})
    layout = parse_stack(files, list(files), same_offset=True)
    assert {path for path, _, _ in files.reads} == {"0.dm4"}
    assert_same(decoded(layout, files), frames)


@pytest.mark.parametrize("version", [3, 4])
def test_each_header_of_a_long_list_is_read_once_and_no_pixels(version):
    dm = Dm(version)
    big = random_items(24, (400, 500), "u2")
    tags = [dm.group("Long", *(dm.text("", "x" * 2000) for _ in range(200)))]
    files = Files({f"{i}.dm4": dm.file(dm.thumbnail(), dm.image(big + i, tags=tags), previews=[0]) for i in range(3)})
    layout = parse_stack(files, list(files))
    assert layout.image_count == 3
    read = {path: [(at, size) for name, at, size in files.reads if name == path] for path in files}
    assert all(len(set(reads)) == len(reads) for reads in read.values())
    header = len(files["0.dm4"]) - big.nbytes
    if version == 4:        # sizes of groups let tags of no use be skipped
        assert len(read["1.dm4"]) * _dmtags.WINDOW_BYTES < header / 2
    else:
        assert sum(size for _, size in read["1.dm4"]) < header + 4 * _dmtags.WINDOW_BYTES


@pytest.mark.parametrize(("other", "message"), [
    (random_items(25, (7, 12), "u2"), r"^b\.dm4: has frames of \(7, 12\) uint16; expected \(7, 11\) uint16 as in a\.dm4"),
    (random_items(25, SIG, "i2"), r"^b\.dm4: has frames of \(7, 11\) int16; expected \(7, 11\) uint16 as in a\.dm4"),
    (random_items(25, (2, 3, *SIG), "u2"), r"^b\.dm4: image 0 is a scan of shape \(2, 3, 7, 11\); a list of files takes images"),
])
def test_files_that_differ_are_refused_by_name(other, message):
    dm = Dm()
    files = Files({"a.dm4": dm.file(dm.image(random_items(25, SIG, "u2"))), "b.dm4": dm.file(dm.image(other))})
    with pytest.raises(DataSetException, match=message):
        parse_stack(files, ["a.dm4", "b.dm4"])
    big = Dm(4, ">")
    files["b.dm4"] = big.file(big.image(random_items(25, SIG, "u2")))
    with pytest.raises(DataSetException, match=r"^b\.dm4: has frames of \(7, 11\) >u2; expected"):
        parse_stack(files, ["a.dm4", "b.dm4"])


@pytest.mark.parametrize("version", [3, 4])
def test_spectrum_images_have_no_place_in_a_list(version):
    dm = Dm(version)
    kind = dm.group("Meta Data", dm.text("Format", "Spectrum image"))
    stack = random_items(30, (3, *SIG), "u2")
    files = Files({"a": dm.file(dm.image(stack)), "b": dm.file(dm.image(stack, tags=[kind]))})
    with pytest.raises(DataSetException, match=r"^b: image 0 is a scan of shape \(3, 7, 11\)"):
        parse_stack(files, ["a", "b"])


def test_lists_that_are_none_are_refused():
    dm = Dm()
    files = Files({"a.dm4": dm.file(dm.image(random_items(26, SIG, "u2"))), "b.dm4": dm.file(dm.image(random_items(26, (2, *SIG), "u2")))})
    with pytest.raises(DataSetException, match="files is an empty list"):
        parse_stack(files, [])
    with pytest.raises(DataSetException, match=r"^\./a\.dm4: is in the list of files twice"):
        parse_stack(files, ["a.dm4", "b.dm4", "./a.dm4"])
    with pytest.raises(FileNotFoundError):
        parse_stack(_Missing(files), ["a.dm4", "c.dm4"])
    with pytest.raises(DataSetException, match=rf"^b\.dm4: has {len(files['b.dm4'])} bytes; expected {len(files['a.dm4'])} as a\.dm4"):
        parse_stack(files, ["a.dm4", "b.dm4"], same_offset=True)


class _Missing(Files):
    """Files whose sizes are asked for as `os.stat` is."""

    def size(self, path):
        if path not in self:
            raise FileNotFoundError(2, "no such file", path)
        return super().size(path)


# -- metadata, data sets and writer ------------------------------------------------------------------------------------


def test_calibrations_become_metadata_slowest_axis_first():
    dm = Dm(3, ">")
    info = dm.group("Microscope Info", dm.f4("Voltage", 200000.0), dm.text("Imaging Mode", "DIFFRACTION"))
    layout = layout_of(dm.file(dm.image(nav_fastest(random_items(27, (*NAV, *SIG), "u2")), units=("nm", "µm", "1/nm"), name="scan",
                                        tags=[dm.swapped(False), info])))
    axis = {"delta": 0.5, "first": -1.5}
    assert dict(layout.metadata) == {
        "dm_version": 3, "dataset_index": 0, "dtype_on_disk": ">u2", "shape": (*SIG, *NAV), "name": "scan", "voltage_v": 200000.0,
        "imaging_mode": "DIFFRACTION", "nav_axes": [{"size": 3, **axis, "unit": "µm"}, {"size": 5, **axis, "unit": "nm"}],
        "sig_axes": [{"size": 7}, {"size": 11, **axis, "unit": "1/nm"}]}


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("swap_tag", [False, True])
@pytest.mark.parametrize("dtype", ["<u2", ">c8", "?"])
def test_the_writer_writes_what_is_described(tmp_path, version, transposed, swap_tag, dtype):
    scan = random_items(28, (*NAV, *SIG), dtype)
    path = tmp_path / "a.dm4"
    flat = scan.reshape(15, *SIG)
    assert synth.write("dm", path, [flat[:4], flat[4:]], nav_shape=NAV, sig_shape=SIG, version=version, transposed=transposed,
                       swap_tag=swap_tag, thumbnail=False) == [str(path)]
    blob = path.read_bytes()
    assert blob[3] == version and blob[-8:] == bytes(8)
    assert blob.count((nav_fastest(scan) if transposed else scan).tobytes()) == 1
    assert_same(gpuio.open(path, device="cpu")[...], scan)


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"dtype": "f2"}, DataSetException, "dtype float16"), ({"version": 5}, DataSetException, "version 5"),
    ({"sig_shape": (7,)}, ShapeError, "spectra"), ({"transposed": True}, ShapeError, "two nav axes"),
    ({"dtype": "u1"}, DataSetException, "cannot be written as uint8"), ({"nav_shape": (7,)}, ShapeError, "there are 6 frames"),
    ({"nav_shape": (5,), "frames_per_file": 2}, ShapeError, "at least 6 frames"),
    ({"frames_per_file": 0}, ShapeError, "frames_per_file is 0"),
    ({"nav_shape": (7,), "frames_per_file": 2}, ShapeError, "there are 6 frames"),
])
def test_what_cannot_be_written_leaves_no_file(tmp_path, options, error, message):
    frames = np.full((6, *SIG), 300, "u2")
    with pytest.raises(error, match=message):
        synth.write("dm", tmp_path / "a.dm4", [frames[:5], frames[5:]], **{"nav_shape": (6,), "sig_shape": SIG, **options})
    assert not list(tmp_path.iterdir())


def test_arguments_messages_recognition_and_copies(tmp_path):
    frames = random_items(29, (6, *SIG), "u2")
    path = str(tmp_path / "a.dm4")
    synth.write("dm", path, [frames], nav_shape=(6,), sig_shape=SIG)
    with open(path, "rb") as file:
        assert sniff(file.read(4096), path)
    assert not sniff(b"\0\0\0\5" + bytes(100), path)
    assert_same(pickle.loads(pickle.dumps(gpuio.open(path, device="cpu")))[2:4, 1:3], frames[2:4, 1:3])
    found = DMDataSet.detect_params(path)
    assert found["info"] == {"image_count": 6, "native_sig_shape": SIG}
    assert_same(gpuio.load("dm", device="cpu", **found["parameters"])[...], frames)
    with pytest.warns(FutureWarning, match="scan_size is deprecated"):
        assert tuple(gpuio.load("dm", [path], (2, 3), device="cpu").shape) == (2, 3, *SIG)
    for arguments, what in (({}, "neither is given"), ({"files": [path], "path": path}, "both are given"), ({"files": 5}, "^files is 5;"),
                            ({"files": [path, None]}, "expected a list of paths")):
        with pytest.raises(DataSetException, match=what):
            DMDataSet(**arguments)
    convert = DMDataSet.get_msg_converter()()
    assert convert.to_python({"type": "DM", "files": ["a", "b"], "same_offset": True}) == {"files": ("a", "b"), "same_offset": True}
    assert convert.to_python({"type": "DM", "path": "a"}) == {"path": "a"}
    with pytest.raises(jsonschema.ValidationError, match="not valid under any"):
        convert.to_python({"type": "DM"})
