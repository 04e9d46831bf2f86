"""K2IS captures: sectors in step, where a scan starts, and every pixel of written captures whichever way it is asked for."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest

import gpuio
from gpuio.base import BufferedBackend, CorrectionSet, DirectBackend, MMapBackend, TilingScheme
from gpuio.errors import ShapeError
from gpuio.formats.k2is import K2ISDataSet, parse, sniff
from gpuio.geometry.plan import make_plan
from gpuio.shape import Shape
from gpuio.synth import k2is as synth
from tests.formats.k2is_files import BLOCK, ENDS, STARTS, Capture, group, header, places, scan_tags, tag, tag_file

BACKENDS = {"mmap": MMapBackend, "buffered": BufferedBackend, "direct": DirectBackend}
BIN = "/d/Capture52_3.bin"

# -- headers -----------------------------------------------------------------------------------------------------------


def test_the_worked_example_of_a_header():
    assert header(1000, 59, 0, 0) == bytes.fromhex(
        "FFFF0055 00000000 01 00 000000000000 000003E8 0100 0744 0000003B 00F0 0000 00FF 03A1 00005758")


def expected_places(capture, first_count, n_frames):
    """Where blocks of complete frames are, looked up by their count one by one; the first of two with the same count."""
    found = {}
    for k, blocks in enumerate(capture.sectors):
        at = {}
        for i, raw in enumerate(blocks):
            if raw[:4] == b"\xff\xff\x00\x55":
                at.setdefault(int.from_bytes(raw[16:20], "big"), (i, int.from_bytes(raw[28:30], "big"), int.from_bytes(raw[30:32], "big")))
        for n in range(32 * n_frames):
            if (first_count + n) % 2**32 in at:
                i, x, y = at[(first_count + n) % 2**32]
                found[n // 32, k, x, y] = capture.names[k], len(capture.lead[k]) + i * BLOCK
    return found


def test_the_worked_example_of_syncing():
    capture = Capture()
    layout = parse(capture, BIN)
    assert (layout.image_count, layout.sync_offset, layout.nav_shape, layout.sig_shape) == (10, 3, (2, 3), (1860, 2048))
    assert layout.notes == ()
    assert places(layout) == expected_places(capture, 1064, 10)
    assert layout.metadata["frame_id_first"] == 59 and layout.metadata["frame_id_last"] == 68
    assert layout.metadata["first_flagged_frame"] == 4
    assert layout.metadata["blocks_skipped_start"] == [64 - n for n in STARTS]
    assert layout.metadata["blocks_skipped_end"] == [64 - n for n in ENDS]
    json.dumps(dict(layout.metadata))


@pytest.mark.parametrize("seed", range(12))
def test_sectors_that_start_and_end_anywhere_are_put_in_step(seed):
    rng = np.random.default_rng(seed)
    starts, ends = (tuple(rng.integers(0, 70, 8).tolist()) for _ in range(2))
    first_count = int(rng.integers(0, 2**32))           # the counter may overflow
    capture = Capture(9, starts, ends, shutter=4, first_count=first_count, first_id=int(rng.integers(1, 2**31)))
    first, stop = -(-max(starts) // 32), (9 * 32 - max(ends)) // 32
    layout = parse(capture, BIN)
    assert layout.image_count == stop - first
    assert places(layout) == expected_places(capture, first_count + 32 * first, stop - first)


def test_a_start_at_the_first_block_of_a_frame_loses_no_frame():
    layout = parse(Capture(4, (32,) * 8, (0,) * 8, shutter=2), BIN)
    assert layout.image_count == 3 and layout.metadata["frame_id_first"] == 58


def test_frame_ids_may_jump_between_frames():
    capture = Capture(4, (0,) * 8, (0,) * 8, shutter=1, first_id=284798)
    for k, sector in enumerate(capture.sectors):
        capture.sectors[k] = [raw[:24] + (int.from_bytes(raw[24:28], "big") % 284799 + 1).to_bytes(4, "big") + raw[28:] for raw in sector]
    layout = parse(capture, BIN)
    assert (layout.image_count, layout.metadata["frame_id_first"], layout.metadata["frame_id_last"]) == (4, 284799, 3)


def test_a_frame_is_sixteen_pieces_of_eight_parts_and_a_stack_is_eight_extents():
    layout = parse(Capture(), BIN)
    assert len(layout.pieces) == 16 and len(layout.parts) == 8
    plan = make_plan(layout, np.arange(10), np.array([0, 4, 10]), layout.placements)
    assert np.diff(plan.extent_starts).tolist() == [8, 8]
    assert plan.read_bytes <= 10 * 8 * 715520


def test_blocks_in_another_order_are_placed_by_their_fields():
    order = np.random.default_rng(3).permutation(32)
    capture = Capture(5, shutter=0)
    for sector in capture.sectors[2:4]:
        for i, raw in enumerate(sector):
            n = int.from_bytes(raw[16:20], "big") - 1000
            sector[i] = header(1000 + n, 57 + n // 32, 1, int(order[n % 32]))
    layout = parse(capture, BIN)
    assert places(layout) == expected_places(capture, 1064, layout.image_count)


def test_a_file_that_begins_inside_a_block_is_read_from_the_next_one():
    capture = Capture(6, (0,) * 8, (0,) * 8, shutter=1)
    # Pixels that look like a sync word, and one that looks like a whole header, do not mislead: nothing follows 22360 bytes later.
    capture.lead[4] = b"\x11" * 500 + b"\xff\xff\x00\x55" + b"\x22" * 300 + header(1, 2, 1, 3) + b"\x33" * 7001
    layout = parse(capture, BIN)
    assert places(layout) == expected_places(capture, 1000, 6)
    assert layout.notes[0] == f"Capture52_5.bin: begins inside a block; the first {len(capture.lead[4])} bytes are left out"


def test_a_last_block_that_was_cut_short_is_left_out():
    capture = Capture(4, (0,) * 8, (0,) * 8, shutter=1)
    whole = parse(capture, BIN)
    capture.tail[6] = header(1128, 61) + bytes(22319)
    assert places(parse(capture, BIN)) == places(whole)


# -- where the scan starts ---------------------------------------------------------------------------------------------


def synced(**kwargs):
    return parse(Capture(8, (0,) * 8, (0,) * 8, **kwargs), BIN)


@pytest.mark.parametrize(("shutter", "expected"), [(1, 0), (2, 1), (5, 4), (7, 6)])
def test_a_scan_starts_one_frame_before_the_shutter_flag(shutter, expected):
    layout = synced(shutter=shutter)
    assert (layout.sync_offset, layout.nav_shape, layout.notes) == (expected, (2, 3), ())


def test_a_scan_whose_first_frame_is_flagged_starts_with_a_blank_position():
    layout = synced(shutter=0)
    assert layout.sync_offset == -1
    assert layout.notes == ("the first complete frame has the shutter flag, which scans set one frame late: the first position is blank",)
    assert parse(Capture(1, (0,) * 8, (0,) * 8, shutter=0), BIN).sync_offset == 0        # -1 would leave no frame


@pytest.mark.parametrize("shutter", [0, 1, 6])
def test_a_time_series_starts_with_the_first_flagged_frame(shutter):
    layout = synced(shutter=shutter, time_series=True)
    assert (layout.sync_offset, layout.nav_shape, layout.notes) == (shutter, (8 - shutter,), ())
    assert layout.metadata["mode"] == "time series"


@pytest.mark.parametrize("time_series", [False, True])
def test_without_any_flag_the_first_complete_frame_is_the_first_position(time_series):
    with pytest.warns(RuntimeWarning, match=r"^/d/Capture52_3\.bin: the shutter flag is set in no frame"):
        layout = synced(shutter=99, time_series=time_series)
    assert layout.sync_offset == 0 and layout.metadata["first_flagged_frame"] is None
    assert layout.nav_shape == ((8,) if time_series else (2, 3))


def test_the_flag_of_a_short_stretch_is_found():
    capture = Capture(8, (0,) * 8, (0,) * 8, shutter=99)
    for sector in capture.sectors:
        sector[5 * 32:6 * 32] = [raw[:9] + b"\1" + raw[10:] for raw in sector[5 * 32:6 * 32]]
    assert parse(capture, BIN).sync_offset == 4


# -- the .gtg ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [3, 4])
def test_scan_and_settings_come_from_the_tags(version):
    capture = Capture(3, (0,) * 8, (0,) * 8, shutter=1)
    text = "Cu Kß".encode("utf-16-le")
    wide = (lambda n: n.to_bytes(4, "big")) if version == 3 else (lambda n: n.to_bytes(8, "big"))
    long = b"%%%%" + wide(3) + wide(20) + wide(4) + wide(50000) + bytes(100000)
    numbers = b"%%%%" + wide(3) + wide(20) + wide(3) + wide(2) + (-7).to_bytes(4, "little", signed=True) + (5).to_bytes(4, "little")
    capture.files["/d/Capture52_.gtg"] = tag_file(
        tag("Else", 7, version), group("SI Dimensions", tag("Size X", 3, version), tag("Size Y", 1, version), version=version),
        group("SI Image Tags", tag("Name", b"%%%%" + wide(3) + wide(20) + wide(4) + wide(5) + text, version), tag("Long", long, version),
              tag("Range", numbers, version),
              group("Microscope", tag("Voltage (kV)", 300, version), version=version), version=version), version=version)
    layout = parse(capture, "/d/Capture52_.gtg")
    assert layout.nav_shape == (1, 3)
    shown = {key: value for key, value in layout.metadata.items() if key.startswith("SI ")}
    assert shown == {"SI Dimensions/Size X": 3, "SI Dimensions/Size Y": 1, "SI Image Tags/Name": "Cu Kß", "SI Image Tags/Range": [-7, 5],
                     "SI Image Tags/Microscope/Voltage (kV)": 300}


@pytest.mark.parametrize("nav_shape", [(2, 4), (8,)])
def test_without_a_gtg_the_user_names_the_scan(nav_shape):
    capture = Capture(8, (0,) * 8, (0,) * 8, shutter=3)
    del capture.files["/d/Capture52_.gtg"]
    with pytest.warns(RuntimeWarning, match=r"^/d/Capture52_\.gtg: opened without the tags: /d/Capture52_\.gtg: expected this file"):
        layout = parse(capture, BIN, nav_shape=nav_shape)
    assert layout.sync_offset == (2 if len(nav_shape) > 1 else 3)


def test_odd_dimensions_in_the_tags_make_a_time_series():
    for size in (0, 2**31):
        capture = Capture(8, (0,) * 8, (0,) * 8, shutter=3)
        capture.files["/d/Capture52_.gtg"] = scan_tags(size, 5)
        layout = parse(capture, BIN)
        assert layout.nav_shape == (5,) and layout.notes == (f"SI Dimensions of the .gtg are {size} x 5; "
                                                             "expected numbers of positions: read as a time series",)


# -- recognition and the data set ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("head", "path", "expected"), [
    (header() + bytes(4056), "a.bin", True), (header() + bytes(4056), "a.dat", True), (bytes(50) + header() + bytes(4006), "a.bin", True),
    (bytes(50) + header() + bytes(4006), "a.raw", False), (bytes(4096), "a.bin", False), (header(height=930) + bytes(4056), "a.bin", False),
    (b"\xff\xff\x00\x55" + bytes(4092), "a.bin", False), (header()[:39], "a.bin", False), (b"", "a.bin", False),
    (scan_tags(2, 3), "a.gtg", True), (scan_tags(2, 3, 3), "a.GTG", True), (scan_tags(2, 3), "a.dm4", False), (bytes(4096), "a.gtg", False),
    (b"", "a.gtg", False),
])
def test_sniff(head, path, expected):
    assert sniff(head, path) is expected and K2ISDataSet.sniff(head, path) is expected


def test_the_constructor_touches_no_file():
    ds = K2ISDataSet("/nowhere/a.gtg", (2, 3), (1860, 2048), 1)
    assert ds.meta is None
    with pytest.raises(FileNotFoundError):
        ds.initialize(None)


# -- pixels --------------------------------------------------------------------------------------------------------------


N, FLAGGED = 5, 2        # complete frames, and the first with the flag


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A capture whose sectors start and end inside of frames: paths, and its complete frames before encoding."""
    folder = tmp_path_factory.mktemp("k2is")
    frames = np.random.default_rng(7).integers(0, 4096, (N + 2, 1860, 2048), dtype="u2")
    paths = synth.write(str(folder / "Capture52_.gtg"), iter(np.split(frames, [1, 4])), nav_shape=(1, N + 2), shutter=FLAGGED + 1,
                        cut_start=(0, 3, 5, 31, 1, 32, 8, 10), cut_end=(0, 5, 0, 31, 1, 0, 0, 20))
    yield paths, frames[1:-1]
    shutil.rmtree(folder)


def moved(frames, n, offset):
    """What `n` positions show: k = i + offset."""
    expected = np.zeros((n, *frames.shape[1:]), frames.dtype)
    for i in range(n):
        if 0 <= i + offset < len(frames):
            expected[i] = frames[i + offset]
    return expected


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offset", [None, 0, 3, -2])
def test_every_pixel_is_that_before_encoding(scan, backend, offset):
    paths, frames = scan
    ds = gpuio.load("k2is", path=paths[0], nav_shape=(2, 3), sync_offset=offset, io_backend=BACKENDS[backend](), device="cpu")
    ds.set_num_cores(4)
    assert (ds.dtype, ds.image_count, tuple(ds.shape), ds.notes) == (np.dtype("u2"), N, (2, 3, 1860, 2048), ())
    assert ds.sync_offset == (FLAGGED - 1 if offset is None else offset)
    expected = moved(frames, 6, ds.sync_offset)
    assert np.array_equal(ds[...], expected.reshape(2, 3, 1860, 2048))
    assert np.array_equal(ds[1, ::-1, 900:1000, 511:2041:7], expected[:2:-1, 900:1000, 511:2041:7])
    roi = np.array([[True, False, True], [False, True, True]])
    seen = []
    for tile in ds.tiles(dtype="float32", roi=roi):
        where = tile.tile_slice.get(nav_only=True)
        assert np.array_equal(tile.data, expected[roi.ravel()][where].astype("f4"))
        seen += range(6)[where[0] if isinstance(where, tuple) else where]
    assert seen == [j for j, i in enumerate(np.flatnonzero(roi)) if 0 <= i + ds.sync_offset < N]
    parts = list(ds.get_partitions())
    assert [int(p.slice.shape[0]) for p in parts] == [1, 2, 1, 2]
    whole = np.concatenate([p.get_macrotile(dest_dtype="uint16").data for p in parts])
    assert np.array_equal(whole, expected)


@pytest.mark.parametrize("tileshape", [(3, 1860, 2048), (2, 930, 16), (4, 601, 2048), (1, 7, 307)])
def test_tiles_of_any_scheme(scan, tileshape):
    paths, frames = scan
    ds = gpuio.load("k2is", path=paths[4], nav_shape=(4,), sync_offset=1, device="cpu")
    scheme = TilingScheme.make_for_shape(Shape(tileshape, sig_dims=2), ds.shape)
    if len(scheme) > 300:       # a few boxes of the many, all over the detector
        scheme = type(scheme)([scheme[i] for i in range(0, len(scheme), 131)], scheme.shape, ds.shape, None)
    expected = moved(frames, 4, 1)
    covered = np.zeros(expected.shape, "u1")
    for part in ds.get_partitions():
        for tile in part.get_tiles(scheme, dest_dtype="uint16"):
            where = tile.tile_slice.get()
            assert np.array_equal(tile.data, expected[where])
            covered[where] += 1
    boxes = np.zeros((1860, 2048), "u1")
    for box in scheme:
        boxes[box.get()] += 1
    assert np.array_equal(covered, np.broadcast_to(boxes, covered.shape))


def test_corrections_are_applied_to_every_pixel(scan):
    paths, frames = scan
    rng = np.random.default_rng(8)
    dark, gain = (rng.normal(size=(1860, 2048)).astype("f4") for _ in range(2))
    ds = gpuio.load("k2is", path=paths[0], nav_shape=(2,), sync_offset=0, device="cpu")
    (tile,) = (np.concatenate([np.array(t.data) for t in ds.tiles(corrections=CorrectionSet(dark=dark, gain=gain))]),)
    assert np.array_equal(tile, ((frames[:2].astype("f8") - dark) * gain).astype("f4"))


def test_any_file_opens_the_capture_and_it_pickles_small(scan):
    paths, frames = scan
    for path in (paths[0], paths[1], paths[8]):
        ds = gpuio.open(path, device="cpu")
        assert tuple(ds.shape.nav) == (1, N + 2)
    packed = pickle.dumps(ds)
    assert len(packed) < 8192
    assert np.array_equal(pickle.loads(packed)[0, 0], frames[FLAGGED - 1])
    assert len(ds.files) == 8 and ds.check_valid()


def test_negotiated_tiles_are_made_of_half_sectors(scan):
    ds = gpuio.load("k2is", path=scan[0][0], device="cpu")
    assert ds.get_base_shape(None) == (1, 930, 256)
    assert gpuio.load("k2is", path=scan[0][0], sig_shape=(3720, 1024)).get_base_shape(None) == (1, 1, 1024)


def test_shapes_and_offsets_that_do_not_fit_are_refused(scan):
    paths, frames = scan
    with pytest.raises(ShapeError, match=r"sig_shape \(1860, 2047\) has 3807420 pixels; the stored frames \(1860, 2048\) have 3809280"):
        gpuio.load("k2is", path=paths[0], sig_shape=(1860, 2047))
    for offset in (N, -N):
        with pytest.raises(ShapeError, match=r"sync_offset should be in \(-5, 5\)"):
            gpuio.load("k2is", path=paths[0], sync_offset=offset)
    ds = gpuio.load("k2is", path=paths[0], sig_shape=(3720, 1024), sync_offset=0, nav_shape=(1,), device="cpu")
    assert np.array_equal(ds[0], frames[0].reshape(3720, 1024))


def test_messages_detection_and_cache_key(scan):
    paths, _ = scan
    assert K2ISDataSet.get_supported_extensions() == {"bin", "gtg"}
    message = {"type": "K2IS", "path": paths[0], "nav_shape": [2, 3], "sync_offset": 0}
    assert K2ISDataSet.get_msg_converter()().to_python(message) == {"path": paths[0], "nav_shape": (2, 3), "sync_offset": 0}
    found = gpuio.detect(paths[1])
    assert found["format"] == "k2is" and found["parameters"]["nav_shape"] == (1, N + 2) and found["info"]["image_count"] == N
    keys = [gpuio.load("k2is", path=paths[0], sync_offset=offset, every_block=every).get_cache_key()
            for offset, every in ((None, False), (2, False), (2, True))]
    assert len({json.dumps(key) for key in keys}) == 3


def test_headers_of_blocks_are_read_once():
    capture, places_read, read = Capture(8), [], Capture.read

    def counting(path, offset, size):
        if size == 40:
            places_read.append((path, offset))
        return read(capture, path, offset, size)

    capture.read = counting
    parse(capture, BIN)
    assert len(places_read) == len(set(places_read)) > 8 * 32
