"""EMPAD against the worked example, raw files made by hand, and arrays before encoding."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

import gpuio
from gpuio import synth
from gpuio.errors import DataSetException, FormatError, ShapeError, TruncatedFile
from gpuio.formats.empad import EMPADDataSet, parse, sniff
from tests.formats.every_way import BACKENDS, check_every_way
from tests.formats.mib_files import Files

STRIDE = 66560


def scan(n=15, seed=1):
    """Frames of random floats with both signs, NaN and infinities among them."""
    frames = np.random.default_rng(seed).normal(0, 100, (n, 128, 128)).astype("f4")
    frames[0, 3, 5], frames[n // 2, 127, 127], frames[-1, 0, 0] = np.nan, np.inf, -0.0
    return frames


def raw(frames, tail=b""):
    """A raw file by hand: each frame and two rows of something else."""
    other = np.random.default_rng(2).integers(0, 256, (len(frames), 1024), dtype="u1")
    return b"".join(frame.astype("<f4").tobytes() + footer.tobytes() for frame, footer in zip(frames, other, strict=True)) + tail


def blank(n):
    """A raw file of which the pixels do not matter."""
    return bytes(n * STRIDE)


def xml(filename="scan_x5_y3.raw", kind=None, extra="", head=""):
    element = "" if filename is None else f'<raw_file filename="{filename}"/>'
    return (f'{head}<root name="acquisition_7"><timestamp timestamp="1.5" isoformat="2019-06-07T13:17:22.590279"/>{element}'
            + ("" if kind is None else f"<type>{kind}</type>") + f"{extra}</root>").encode()


def resolution(mode, y, x):
    return (f'<scan_parameters mode="{mode}"><scan_size>0.8</scan_size><scan_resolution_x>{x}</scan_resolution_x>'
            f"<scan_resolution_y>{y}</scan_resolution_y></scan_parameters>")


PIX = "<pix_x>5</pix_x><pix_y>3</pix_y>"
SERIES = "<scan_parameters><series_count>15</series_count></scan_parameters>"


def written(folder, nav_shape=(3, 5), version="1.2.2"):
    frames = scan(int(np.prod(nav_shape)))
    return synth.write("empad", folder / "acquisition_7.xml", [frames[:4], frames[4:]], nav_shape=nav_shape, sig_shape=(128, 128),
                       version=version), frames


# -- pixels ----------------------------------------------------------------------------------------------------------


def test_the_worked_example(tmp_path):
    np.arange(3 * 16640, dtype="<f4").tofile(tmp_path / "series_x3.raw")
    ds = gpuio.open(tmp_path / "series_x3.raw", device="cpu")
    frame, y, x = np.ogrid[:3, :128, :128]
    np.testing.assert_array_equal(ds[:], 16640 * frame + 128 * y + x)
    assert ds[1, 0, 0] == 16640 and ds[1, 127, 127] == 33023


@pytest.mark.parametrize("sync_offset", [0, 2, -3, 14, -14])
@pytest.mark.parametrize("backend", BACKENDS)
def test_scans_come_back_exactly_every_way(tmp_path, backend, sync_offset):
    paths, frames = written(tmp_path)
    check_every_way(lambda **kwargs: gpuio.load("empad", path=paths[0], device="cpu", **kwargs), frames, backend, sync_offset,
                    tile=(2, 51, 77))


@pytest.mark.parametrize("version", ["0.51", "1.2.2"])
@pytest.mark.parametrize(("nav_shape", "raw_name"), [((3, 5), "scan_x5_y3.raw"), ((7,), "series_x7.raw")])
@pytest.mark.parametrize("opened", [0, 1])
def test_either_file_opens_the_set_of_either_generation(tmp_path, version, nav_shape, raw_name, opened):
    paths, frames = written(tmp_path, nav_shape, version)
    assert paths == [str(tmp_path / "acquisition_7.xml"), str(tmp_path / raw_name)]
    ds = gpuio.open(paths[opened], device="cpu")
    assert (ds.format, tuple(ds.shape.nav), ds.dtype, ds.notes) == ("empad", nav_shape, np.float32, ())
    assert ds.metadata["name"] == "acquisition_7" and ds.metadata["software_version"] == version
    np.testing.assert_array_equal(ds[:], frames.reshape(*nav_shape, 128, 128))


def test_tiles_in_the_native_dtype_are_views_of_the_mapped_file(tmp_path):
    paths, frames = written(tmp_path)
    ds = gpuio.load("empad", path=paths[0], io_backend=BACKENDS["mmap"](), device="cpu")
    assert not ds.need_decode("float32", None, None)
    for tile in ds.tiles(depth=4):
        assert not tile.data.flags.owndata and not tile.data.flags.writeable and tile.data.strides[0] == STRIDE
        np.testing.assert_array_equal(tile.data, frames[tile.tile_slice.get(nav_only=True)])


def test_another_sig_shape_has_the_same_pixels(tmp_path):
    paths, frames = written(tmp_path)
    ds = gpuio.load("empad", path=paths[0], sig_shape=(128, 8, 16), device="cpu")
    np.testing.assert_array_equal(ds[:], frames.reshape(3, 5, 128, 8, 16))
    with pytest.raises(ShapeError, match=r"sig_shape \(128, 127\) has 16256 pixels"):
        gpuio.load("empad", path=paths[0], sig_shape=(128, 127))


# -- the shape of the scan -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind", "extra", "n_frames", "nav_shape"), [
    ("series_x9.raw", "series", "<count>15</count>", 15, (15,)),
    ("a.raw", "series", SERIES, 15, (15,)),
    ("a.raw", "series", "<count>14</count>" + SERIES, 15, (15,)),
    ("a.raw", "scan", PIX + resolution("acquire", 5, 3), 15, (3, 5)),
    ("scan_x5_y3.raw", "scan", resolution("acquire", 128, 128) + resolution("search", 64, 64), 15, (3, 5)),
    ("scan_11_x5_y3.raw", None, "", 15, (3, 5)),
    ("scan_x3_y5.raw", None, PIX, 15, (3, 5)),
    ("series_x15.raw", None, "", 15, (15,)),
    ("a.raw", None, resolution("search", 5, 3) + resolution("acquire", 3, 5), 15, (3, 5)),
    ("a.raw", None, resolution("search", 3, 5) + resolution("acquire", 256, 256), 15, (3, 5)),
    ("a.raw", None, SERIES + resolution("acquire", 3, 5), 15, (3, 5)),
    ("a.raw", None, SERIES, 15, (15,)),
    ("scan_x5_y3.raw", None, "<pix_x>x</pix_x><pix_y>3</pix_y>", 15, (3, 5)),
    ("scan_x5_y3.raw", None, "<pix_x> 15 </pix_x><pix_y>1\n</pix_y>", 15, (1, 15)),
    ("scan_x5_y3.raw", None, "<pix_x>-5</pix_x><pix_y>-3</pix_y>" + "<pix_x>5</pix_x>", 15, (3, 5)),
    ("scan_x5_y3.raw", None, "<scan_parameters><scan_resolution_x>15</scan_resolution_x></scan_parameters>", 15, (3, 5)),
    ("a.raw", None, "<scan_parameters mode='acquire'/>" + resolution("acquire", 3, 5), 15, (3, 5)),
], ids=range(17))
def test_the_first_candidate_that_fits_the_size_is_the_scan(name, kind, extra, n_frames, nav_shape):
    files = Files({"/data/a.xml": xml(name, kind, extra), f"/data/{name}": blank(n_frames)})
    layout = parse(files, "/data/a.xml")
    assert (layout.nav_shape, layout.image_count) == (nav_shape, n_frames)


def test_candidates_that_do_not_fit_are_noted():
    files = Files({"/data/a.xml": xml("scan_x4_y4.raw", "scan", "<pix_x>4</pix_x><pix_y>4</pix_y>" + resolution("search", 64, 64)
                                      + resolution("acquire", 128, 128)), "/data/scan_x4_y4.raw": blank(16)})
    layout = parse(files, "/data/a.xml")
    assert layout.nav_shape == (4, 4)
    assert layout.notes == ("the raw file holds 16 frames: read as 4 x 4 (pix_y, pix_x), not as 128 x 128 (scan_resolution of acquire), "
                            "64 x 64 (scan_resolution of search)",)


def test_where_nothing_fits_the_error_lists_all_candidates_with_their_source():
    files = Files({"/data/a.xml": xml("scan_x4_y5.raw", "scan", PIX + resolution("search", 64, 32) + resolution("acquire", 128, 256)),
                   "/data/scan_x4_y5.raw": blank(14)})
    expected = (r"^/data/scan_x4_y5\.raw: holds 14 frames; expected one of 3 x 5 \(pix_y, pix_x\), 5 x 4 \(name of the raw file\), "
                r"128 x 256 \(scan_resolution of acquire\), 64 x 32 \(scan_resolution of search\): pass nav_shape")
    for path in ("/data/a.xml", "/data/scan_x4_y5.raw"):
        with pytest.raises(FormatError, match=expected):
            parse(files, path)


def test_an_interrupted_scan_is_opened_with_a_nav_shape_and_the_rest_is_blank(tmp_path):
    frames = scan(13)
    (tmp_path / "scan_x5_y3.raw").write_bytes(raw(frames))
    (tmp_path / "a.xml").write_bytes(xml())
    with pytest.raises(FormatError, match="holds 13 frames"):
        gpuio.open(tmp_path / "a.xml")
    ds = gpuio.load("empad", path=tmp_path / "a.xml", nav_shape=(3, 5), device="cpu")
    np.testing.assert_array_equal(ds[:].reshape(15, 128, 128)[:13], frames)
    assert not ds[:].reshape(15, 128, 128)[13:].any() and ds.blank().sum() == 2


def test_a_nav_shape_of_the_user_comes_before_all_others(tmp_path):
    paths, frames = written(tmp_path)
    for path in paths:
        ds = gpuio.load("empad", path=path, nav_shape=(5, 3), device="cpu")
        np.testing.assert_array_equal(ds[:], frames.reshape(5, 3, 128, 128))
    with pytest.warns(FutureWarning, match="scan_size is deprecated"):
        assert EMPADDataSet("a.xml", (2, 3))._nav_shape == (2, 3)


def test_a_raw_file_without_any_hint_needs_a_nav_shape(tmp_path):
    frames = scan(15)
    (tmp_path / "renamed.raw").write_bytes(raw(frames))
    (tmp_path / "other.xml").write_bytes(xml("another.raw"))
    (tmp_path / "broken.xml").write_bytes(b"<root")
    with pytest.raises(DataSetException, match=r"renamed\.raw: holds 15 frames; no \.xml of the folder names this file.*nav_shape=\(15,\)"):
        gpuio.load("empad", path=tmp_path / "renamed.raw")
    ds = gpuio.load("empad", path=tmp_path / "renamed.raw", nav_shape=(3, 5), device="cpu")
    np.testing.assert_array_equal(ds[:], frames.reshape(3, 5, 128, 128))
    assert dict(ds.metadata) == {} and ds.notes == ()


def test_the_xml_that_names_a_raw_file_is_found_among_others():
    files = Files({f"/data/{i}.xml": xml(f"{i}.raw") for i in range(9)} | {"/data/5x.XML": xml("C:\\there\\y.raw", extra=PIX),
                                                                          "/data/y.raw": blank(15), "/data/0.txt": b""})
    assert parse(files, "/data/y.raw").nav_shape == (3, 5)


def test_metadata_of_either_generation():
    common = {"name": "acquisition_7", "time_local": "2019-06-07T13:17:22.590279"}
    old = parse(Files({"/d/a.xml": xml(kind="scan", extra=PIX + (
        "<software_version>0.51 211118</software_version><exposure_time>1.5</exposure_time><iom_measurements>"
        "<source.get_voltage>300000.0</source.get_voltage><optics.get_cameralength>0.46</optics.get_cameralength>"
        "<optics.get_full_scan_field_of_view>[4.566e-06, 4.5e-06]</optics.get_full_scan_field_of_view>"
        "<calibrated_pixelsize>1.8265e8</calibrated_pixelsize></iom_measurements>")), "/d/scan_x5_y3.raw": blank(15)}), "/d/a.xml").metadata
    assert old == {**common, "type": "scan", "software_version": "0.51 211118", "exposure_time": 1.5, "high_voltage_V": 300000.0,
                   "camera_length_m": 0.46, "full_field_of_view_m": [4.566e-06, 4.5e-06],
                   "iom_measurements": {"calibrated_pixelsize": 1.8265e8}}
    new = parse(Files({"/d/a.xml": xml(extra=resolution("search", 3, 5) + (
        "<background_image absolute_filename=' /home/b/img_1'/><post_exposure_time>0</post_exposure_time>"
        "<temperature_controller><temperature_value>-5.00</temperature_value></temperature_controller>"
        "<grid_measurements><bias_voltage>150.03</bias_voltage></grid_measurements><iom_measurements><scan_rotation>0.0</scan_rotation>"
        "<spot_size_index>7</spot_size_index><full_scan_field_of_view><scale_factor>0.72</scale_factor><x>1.27e-06</x><y>1.28e-06</y>"
        "</full_scan_field_of_view><nominal_camera_length>0.369</nominal_camera_length><high_voltage>300000.0</high_voltage>"
        "<vacuum_state>Ready</vacuum_state></iom_measurements>")), "/d/scan_x5_y3.raw": blank(15)}), "/d/a.xml").metadata
    assert new == {**common, "background_image": "/home/b/img_1", "post_exposure_time": 0, "temperature_C": -5.0, "bias_voltage_V": 150.03,
                   "scan_search": {"scan_size": 0.8, "scan_resolution_x": 5, "scan_resolution_y": 3}, "scan_rotation": 0.0,
                   "spot_size_index": 7, "full_field_of_view_m": [1.27e-06, 1.28e-06], "field_of_view_scale_factor": 0.72,
                   "camera_length_m": 0.369, "high_voltage_V": 300000.0, "iom_measurements": {"vacuum_state": "Ready"}}


@pytest.mark.parametrize(("head", "path", "expected"), [
    (xml(), "a.xml", True), (xml(), "a.XML", True), (xml(), "a.txt", False), (b"<root><note/></root>", "a.xml", False),
    (b'<?xml version="1.0"?><Object><raw_file filename="a.raw"/></Object>', "a.xml", False), (b"", "a.xml", False),
    (blank(1)[:4096], "scan_x5_y3.raw", True), (b"", "scan_11_x5_y3.RAW", True), (b"", "series_x9.raw", True),
    (b"", "scan_x5_y3.bin", False), (b"", "a.raw", False),
    (b"", "scan_x5.5_y3.raw", False), (b"", "my_scan_x5_y3.raw", False), (b"", "scan_x\xb2_y3.raw", False),
])
def test_only_files_of_the_format_are_recognised(head, path, expected):
    assert sniff(head, path) is expected


# -- bad input -------------------------------------------------------------------------------------------------------

BOMB = ('<!DOCTYPE root [<!ENTITY a "' + "a" * 100 + '">' + "".join(f'<!ENTITY {c} "{"&" + chr(ord(c) - 1) + ";"}'
        f'{("&" + chr(ord(c) - 1) + ";") * 9}">' for c in "bcdefgh") + "]>")


@pytest.mark.parametrize(("content", "error", "message"), [
    (b"", FormatError, "not a well-formed XML file: no element found"),
    (b"\x00\xff" * 50, FormatError, "not a well-formed XML file"),
    (xml()[:-3], FormatError, "not a well-formed XML file"),
    (b'<?xml version="1.0" encoding="nothing"?>' + xml(), FormatError, "not a well-formed XML file: unknown encoding"),
    (xml(head=BOMB).replace(b"acquisition_7", b"&h;"), FormatError, "has a document type or entities, which are not read for safety"),
    (xml(head='<!DOCTYPE root [<!ENTITY x SYSTEM "file:///etc/passwd">]>').replace(b"acquisition_7", b"&x;"), FormatError, "document type"),
    (xml(head='<!DOCTYPE root SYSTEM "http://localhost:9/x.dtd">'), FormatError, "document type"),
    (xml(head='<!DOCTYPE root [<!ENTITY % x SYSTEM "file:///etc/passwd"> %x;]>'), FormatError, "document type"),
    (xml(extra="&undefined;"), FormatError, "not a well-formed XML file: undefined entity"),
    (b"<a>" * 250_000 + b"</a>" * 50_000, FormatError, "not a well-formed XML file|more than"),
    (xml(extra=" " * (1 << 20)), FormatError, "more than 1048576 bytes; expected a small XML file"),
    (xml(None), FormatError, "has no element raw_file with a filename"),
    (xml(""), FormatError, "has no element raw_file with a filename"),
    (xml(".."), FormatError, "has no element raw_file with a filename"),
    (xml("folder/"), FormatError, "has no element raw_file with a filename"),
    (xml("missing.raw", extra=PIX), FormatError, r"could not open file /data/missing\.raw, which it names \(no such file\); if it was "
                                                 r"renamed: /data/scan_x5_y3\.raw has the right size, open it with nav_shape"),
    (xml("missing.raw"), FormatError, r"could not open file /data/missing\.raw.*open the \.raw file itself with nav_shape=\(y, x\)"),
    (xml(kind="movie"), FormatError, "type is 'movie'; expected 'scan' or 'series'"),
    (xml("empty.raw"), TruncatedFile, r"^/data/empty\.raw: 0 bytes hold no complete frame; one has 66560 bytes"),
    (xml("short.raw"), TruncatedFile, "66559 bytes hold no complete frame"),
    (xml("plain.raw"), DataSetException, r"^/data/plain\.raw: holds 14 frames; /data/a\.xml tells no scan shape: pass nav_shape"),
], ids=range(21))
def test_xml_files_that_are_of_no_use_are_refused_with_one_clear_line(content, error, message):
    files = FilesWithErrors({"/data/a.xml": content, "/data/scan_x5_y3.raw": blank(15), "/data/plain.raw": blank(14),
                             "/data/empty.raw": b"", "/data/short.raw": blank(1)[:-1]})
    with pytest.raises(error, match=message) as caught:
        parse(files, "/data/a.xml")
    assert str(caught.value).startswith("/data/") and "\n" not in str(caught.value)


class FilesWithErrors(Files):
    """As files: missing ones are errors of the operating system."""

    def size(self, path):
        if path not in self:
            raise FileNotFoundError(2, "no such file", path)
        return super().size(path)


@pytest.mark.parametrize("filename", ["/etc/scan_x5_y3.raw", "../scan_x5_y3.raw", "C:\\data\\scan_x5_y3.raw", "..\\..\\scan_x5_y3.raw",
                                      "a/b\\c/scan_x5_y3.raw", " scan_x5_y3.raw "])
def test_only_the_last_part_of_the_name_in_the_xml_counts(filename):
    asked = []

    class Watched(FilesWithErrors):
        def size(self, path):
            asked.append(path)
            return super().size(path)

    layout = parse(Watched({"/data/a.xml": xml(filename), "/data/scan_x5_y3.raw": blank(15), "/etc/scan_x5_y3.raw": blank(15),
                            "/scan_x5_y3.raw": blank(15)}), "/data/a.xml")
    assert layout.parts[0].paths == ["/data/scan_x5_y3.raw"]
    assert set(asked) == {"/data/scan_x5_y3.raw"}


def test_other_paths_are_refused():
    with pytest.raises(FormatError, match=r"/data/a\.bin: expected an \.xml or \.raw file"):
        parse(Files({"/data/a.bin": blank(1)}), "/data/a.bin")


def test_files_that_are_not_there_are_errors_of_the_operating_system(tmp_path):
    for name in ("a.xml", "scan_x5_y3.raw"):
        with pytest.raises(FileNotFoundError, match=name):
            gpuio.open(tmp_path / name)


@pytest.mark.parametrize("missing", [1, 1023, 1024, 1025, 66559, 66560])
@pytest.mark.parametrize("opened", ["a.xml", "scan_x5_y3.raw"])
def test_a_truncated_raw_file_is_noted_and_its_whole_frames_are_read(tmp_path, missing, opened):
    frames = scan(15)
    (tmp_path / "scan_x5_y3.raw").write_bytes(raw(frames)[:-missing])
    (tmp_path / "a.xml").write_bytes(xml())
    rest = " and .* bytes" if missing < STRIDE else ""
    with pytest.raises(FormatError, match=rf"holds 14 frames{rest}; expected one of 3 x 5"):
        gpuio.load("empad", path=tmp_path / opened)
    ds = gpuio.load("empad", path=tmp_path / opened, nav_shape=(3, 5), device="cpu")
    assert any(f"the last {STRIDE - missing} bytes are no whole frame of 66560" in note for note in ds.notes) == (missing < STRIDE)
    np.testing.assert_array_equal(ds[:].reshape(15, 128, 128)[:14], frames[:14])
    assert not ds[:].reshape(15, 128, 128)[14:].any()


def test_bytes_after_the_last_frame_are_noted_and_left_out(tmp_path):
    frames = scan(15)
    (tmp_path / "scan_x5_y3.raw").write_bytes(raw(frames, b"tail"))
    ds = gpuio.open(tmp_path / "scan_x5_y3.raw", device="cpu")
    assert ds.notes == (f"{tmp_path / 'scan_x5_y3.raw'}: the last 4 bytes are no whole frame of 66560 and were left out",)
    np.testing.assert_array_equal(ds[:], frames.reshape(3, 5, 128, 128))


def test_every_prefix_of_the_xml_is_refused():
    whole = xml(kind="scan", extra=PIX)
    for n in range(len(whole)):
        with pytest.raises(FormatError, match=r"^/data/a\.xml: not a well-formed XML file") as caught:
            parse(Files({"/data/a.xml": whole[:n], "/data/scan_x5_y3.raw": blank(15)}), "/data/a.xml")
        assert "\n" not in str(caught.value)


# -- the data set ----------------------------------------------------------------------------------------------------


def test_the_constructor_touches_no_file():
    ds = EMPADDataSet("/nowhere/a.xml", None, (2, 3), (128, 128), 1)
    assert ds.meta is None
    with pytest.raises(FileNotFoundError):
        ds.initialize(None)


def test_a_data_set_pickles_small_and_reads_again(tmp_path):
    paths, frames = written(tmp_path)
    packed = pickle.dumps(gpuio.load("empad", path=paths[0], device="cpu"))
    assert len(packed) < 8192
    np.testing.assert_array_equal(pickle.loads(packed)[:], frames.reshape(3, 5, 128, 128))


def test_messages_detection_and_cache_key(tmp_path):
    paths, _ = written(tmp_path)
    assert EMPADDataSet.get_supported_extensions() == {"xml", "raw"}
    assert EMPADDataSet.get_msg_converter()().to_python({"type": "EMPAD", "path": paths[0]}) == {"path": paths[0]}
    for path in paths:
        found = gpuio.detect(path)
        assert found["format"] == "empad" and found["parameters"]["nav_shape"] == (3, 5) and found["info"]["image_count"] == 15
    key = gpuio.load("empad", path=paths[0], sync_offset=-2).get_cache_key()
    assert json.loads(json.dumps(key)) == {"path": paths[0], "shape": [3, 5, 128, 128], "sync_offset": -2}
    with pytest.raises(DataSetException, match=r"sync_offset should be in \(-15, 15\)"):
        gpuio.load("empad", path=paths[0], sync_offset=-15)
