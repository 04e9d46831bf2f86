"""Damaged, incomplete and foreign K2IS captures: one clear line, or what is there of them and zeros for the rest."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuio
from gpuio.base import BufferedBackend, CorrectionSet, DirectBackend, MMapBackend
from gpuio.errors import DataSetException, FormatError, TruncatedFile
from gpuio.formats import _k2is_blocks as blocks
from gpuio.formats.k2is import parse
from gpuio.geometry.plan import make_plan
from gpuio.synth import k2is as synth
from tests.formats.k2is_files import BLOCK, Capture, group, header, places, scan_tags, tag, tag_file
from tests.formats.test_k2is import expected_places

BACKENDS = {"mmap": MMapBackend, "buffered": BufferedBackend, "direct": DirectBackend}
BIN, GTG = "/d/Capture52_3.bin", "/d/Capture52_.gtg"


def aligned(n_frames=6, shutter=1):
    """A capture without cut frames."""
    return Capture(n_frames, (0,) * 8, (0,) * 8, shutter=shutter)


def count_of(raw):
    return int.from_bytes(raw[16:20], "big")


def with_count(raw, count):
    return raw[:16] + count.to_bytes(4, "big") + raw[20:]


# -- files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 9])
def test_eight_sector_files_are_expected(n):
    capture = aligned()
    capture.names = [*capture.names, "/d/Capture52_9.bin"][:n]
    with pytest.raises(FormatError, match=rf"^/d/Capture52_1\.bin: expected 8 files at /d/Capture52_\*\.bin, found {n}$"):
        parse(capture, capture.names[0])


def test_a_gtg_without_sectors_names_what_it_looked_for():
    capture = aligned()
    capture.names = []
    with pytest.raises(FormatError, match=r"Capture52_\.gtg: expected 8 files at /d/Capture52_\*\.bin, found 0"):
        parse(capture, GTG)


def test_a_path_that_is_not_there_is_an_os_error():
    for path in ("/d/Capture52_.bin", "/e/x.gtg"):
        with pytest.raises(FileNotFoundError):
            parse(aligned(), path)


def test_a_missing_gtg_is_named_with_the_remedy():
    capture = aligned()
    del capture.files[GTG]
    with pytest.raises(FormatError, match=r"^/d/Capture52_\.gtg: expected this file beside the 8 \.bin files, found none; pass nav_shape="):
        parse(capture, BIN)


@pytest.mark.parametrize("content", [b"", b"\0\0\0\5" + bytes(60), scan_tags(2, 3)[:40], scan_tags(2, 3)[:-9],
                                     tag_file(group("SI Dimensions", tag("Size X", b"%%%%" + (1).to_bytes(8, "big") + bytes(8))))])
def test_an_unreadable_gtg_is_an_error_unless_the_user_names_the_scan(content):
    capture = aligned()
    capture.files[GTG] = content
    with pytest.raises(FormatError, match=r"^/d/Capture52_\.gtg.*; pass nav_shape="):
        parse(capture, GTG)
    with pytest.warns(RuntimeWarning, match=r"Capture52_\.gtg: opened without the tags: "):
        layout = parse(capture, GTG, nav_shape=(2, 3))
    assert layout.image_count == 6 and layout.sync_offset == 0


def test_a_gtg_that_may_not_be_read_is_an_os_error(monkeypatch):
    capture = aligned()
    read = capture.read

    def refuse(path, offset, size):
        if path == GTG:
            raise PermissionError(13, "Permission denied", path)
        return read(path, offset, size)

    monkeypatch.setattr(capture, "read", refuse)
    with pytest.raises(PermissionError):
        parse(capture, BIN)
    with pytest.warns(RuntimeWarning, match="Permission denied"):
        assert parse(capture, BIN, nav_shape=(2, 3)).image_count == 6


# -- headers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "message"), [
    ({"height": 930}, r"byte 0: a block of 22360 bytes, sector 256 x 930; expected 22360 bytes, 256 x 1860: other modes of readout"),
    ({"width": 512}, "sector 512 x 1860"), ({"size": 22361}, "a block of 22361 bytes"),
    ({"place": (8, 0)}, r"a block of pixels \(8, 0\) to \(23, 929\); expected 16 x 930 pixels"),
    ({"place": (256, 0)}, r"\(256, 0\) to \(271, 929\)"), ({"place": (0, 929)}, r"\(0, 929\)"),
    ({"place": (0, 0), "last": (16, 929)}, r"\(0, 0\) to \(16, 929\)"), ({"place": (65535, 65535), "last": (14, 928)}, r"\(65535, 65535\)"),
])
def test_sectors_whose_first_block_is_of_another_kind_are_refused(change, message):
    capture = aligned()
    capture.sectors[5] = [header(count_of(raw), 57, 1, **change) for raw in capture.sectors[5]]
    with pytest.raises(FormatError, match=rf"^/d/Capture52_6\.bin, .*{message}") as caught:
        parse(capture, BIN)
    assert "\n" not in str(caught.value)


def test_files_without_sync_words_are_no_sectors():
    capture = aligned()
    capture.sectors[2] = [b"\xa5" * 40] * 64
    with pytest.raises(FormatError, match=r"^/d/Capture52_3\.bin: not a K2IS sector file: no two blocks begin 22360 bytes apart"):
        parse(capture, BIN)


@pytest.mark.parametrize("n_blocks", [0, 1, 31])
def test_a_sector_shorter_than_a_frame_has_no_complete_frame(n_blocks):
    capture = aligned()
    capture.sectors[7] = capture.sectors[7][:n_blocks]
    with pytest.raises(TruncatedFile, match=r"^/d/Capture52_8\.bin: no complete frame: .*; expected at least"):
        parse(capture, BIN)


def test_sectors_that_never_record_at_the_same_time_are_refused():
    capture = aligned()
    capture.sectors[4] = [with_count(raw, count_of(raw) + 10000) for raw in capture.sectors[4]]
    with pytest.raises(FormatError, match=r"Capture52_1\.bin: block count 11000 is missing; expected it in all sectors"):
        parse(capture, BIN)


def test_no_frame_in_common_is_said():
    capture = Capture(3, (40, 0, 0, 0, 0, 0, 0, 0), (0, 40, 0, 0, 0, 0, 0, 0), shutter=0)
    with pytest.raises(TruncatedFile, match="no complete frame: the sectors have 16 blocks in common, from block count 1040 on"):
        parse(capture, BIN)


def test_sectors_of_two_recordings_are_refused():
    capture = aligned()
    capture.sectors[1] = [raw[:24] + b"\0\0\1\0" + raw[28:] for raw in capture.sectors[1]]
    with pytest.raises(FormatError, match=r"^/d/Capture52_2\.bin: frame id 256 at block count 1000; expected 57 as in /d/Capture52_1\.bin"):
        parse(capture, BIN)


def test_other_numbers_of_blocks_a_frame_are_refused():
    for per_frame in (16, 64):
        capture = aligned()
        for sector in capture.sectors:
            sector[:] = [raw[:24] + (9 + i // per_frame).to_bytes(4, "big") + raw[28:] for i, raw in enumerate(sector)]
        with pytest.raises(FormatError, match=r"frame id .*; expected .* in all sectors and all of its 32 blocks|more than 32 blocks"):
            parse(capture, BIN)


def test_blocks_that_go_to_the_same_pixels_are_refused():
    capture = aligned()
    capture.sectors[3][7] = header(1007, 57, 0, 8)
    with pytest.raises(FormatError, match=r"^/d/Capture52_4\.bin, byte 0: the blocks of complete frame 0 go to 31 different places"):
        parse(capture, BIN)


def test_an_order_that_changes_is_refused():
    capture = aligned()
    capture.sectors[3][-32:] = [header(count_of(raw), 62, 1, 31 - i) for i, raw in enumerate(capture.sectors[3][-32:])]
    with pytest.raises(FormatError, match=r"byte 3577600: the blocks of complete frame 5 .* in the order of complete frame 0"):
        parse(capture, BIN)


# -- lost, repeated and damaged blocks -----------------------------------------------------------------------------------


def lose(capture, k, *positions):
    capture.sectors[k] = [raw for i, raw in enumerate(capture.sectors[k]) if i not in positions]


def note(layout, k):
    return next((n for n in layout.notes if n.startswith(f"Capture52_{k + 1}.bin: ")), None)


@pytest.mark.parametrize(("lost", "frames"), [
    ([70], "2"), ([64], "2"), ([95], "2"), ([31, 32], "0 to 1"), (range(40, 150), "1 to 4"), (range(64, 96), "2"),
    ([33, 77, 78, 170], "1, 2, 5"), (range(64, 160), "2 to 4"), ([1], "0"), ([190], "5"),
])
def test_blocks_after_a_lost_one_stay_where_they_belong(lost, frames):
    capture = aligned()
    lose(capture, 3, *lost)
    layout = parse(capture, BIN)
    assert layout.image_count == 6
    assert places(layout) == expected_places(capture, 1000, 6)
    assert note(layout, 3) == f"Capture52_4.bin: blocks {len(lost)} missing; complete frames {frames} lack pixels, which are blank"


def test_a_repeated_block_is_taken_once():
    capture = aligned()
    capture.sectors[6].insert(50, capture.sectors[6][50])
    capture.sectors[6][100:100] = capture.sectors[6][90:100]
    layout = parse(capture, BIN)
    assert places(layout) == expected_places(capture, 1000, 6)
    assert note(layout, 6) == "Capture52_7.bin: blocks 11 repeated"


def test_a_block_repeated_in_place_of_the_next_one_leaves_that_one_blank():
    capture = aligned()
    capture.sectors[0][77] = capture.sectors[0][76]
    layout = parse(capture, BIN)
    assert (2, 0, 240 - 16 * 13, 0) not in places(layout)
    assert places(layout) == expected_places(capture, 1000, 6)
    assert note(layout, 0) == "Capture52_1.bin: blocks 1 missing, 1 repeated; complete frames 2 lack pixels, which are blank"


@pytest.mark.parametrize("damage", [
    lambda raw: b"\xa5" * 40, lambda raw: with_count(raw, count_of(raw) + 100000), lambda raw: with_count(raw, 3),
    lambda raw: with_count(raw, 2**32 - 1), lambda raw: raw[:28] + b"\0\1" + raw[30:],
])
def test_a_block_with_a_damaged_header_is_blank_and_no_other(damage):
    capture = aligned()
    before = expected_places(capture, 1000, 6)
    capture.sectors[2][77] = damage(capture.sectors[2][77])
    layout = parse(capture, BIN)
    assert places(layout) == {key: value for key, value in before.items() if key != (2, 2, 240 - 16 * 13, 0)}
    assert "complete frames 2 lack pixels" in note(layout, 2)


def test_after_bytes_were_lost_no_pixels_are_made_up():
    capture = aligned()
    before = expected_places(capture, 1000, 6)
    stream = b"".join(raw + b"\xa5" * 22320 for raw in capture.sectors[5])
    stream = stream[:100 * BLOCK + 7777] + stream[100 * BLOCK + 8888:]
    capture.files["/d/Capture52_6.bin"] = stream
    layout = parse(capture, BIN)
    # 100 whole blocks, and the one that was cut: its header is right.
    assert layout.image_count == 3
    assert places(layout) == {key: value for key, value in before.items() if key[0] < 3}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_losses_and_repeats_leave_the_other_blocks_in_place(data):
    capture = Capture(5, (0, 3, 0, 31, 0, 1, 0, 0), (0, 0, 7, 0, 0, 0, 1, 0), shutter=2)
    # One damage a sector: where a repeat meets a loss, either copy of a block may be taken; they hold the same bytes.
    for k in data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=4, unique=True)):
        sector = capture.sectors[k]
        a = data.draw(st.integers(65, 120))
        n = data.draw(st.integers(1, 20))
        if data.draw(st.booleans()):
            del sector[a:min(a + n, len(sector) - 1)]
        else:
            sector[a:a] = sector[max(65, a - n):a]
    layout = parse(capture, BIN)
    assert layout.image_count == 3
    found, expected = places(layout), expected_places(capture, 1032, 3)
    assert {key for key in {*found, *expected} if found.get(key) != expected.get(key)} == set()


def test_losses_in_all_sectors_at_once_leave_the_frames_after_them_in_place():
    capture = aligned(8)
    for k in range(8):
        lose(capture, k, *range(64, 130))
    layout = parse(capture, BIN)
    assert layout.image_count == 8
    assert places(layout) == expected_places(capture, 1000, 8)
    assert layout.present(np.arange(8)).tolist() == [True, True, False, False, True, True, True, True]


def test_a_loss_before_the_first_complete_frame_does_no_harm():
    capture = Capture(6, (0, 0, 0, 0, 40, 0, 0, 0), (0,) * 8, shutter=3)
    lose(capture, 2, 5, 33, 45)
    layout = parse(capture, BIN)
    assert layout.image_count == 4
    assert places(layout) == expected_places(capture, 1064, 4)
    assert note(layout, 2) is None


def test_losses_of_a_long_recording_are_found_without_reading_every_header():
    capture = aligned(100)
    lose(capture, 1, 1717)
    lose(capture, 4, *range(2000, 2100))
    layout = parse(capture, BIN)
    assert capture.reads < 8 * 128 + 2000
    assert places(layout) == expected_places(capture, 1000, 100)


def test_a_loss_that_a_repeat_makes_up_for_is_found_by_looking_at_every_block():
    capture = aligned(40)
    capture.sectors[1][1001:1003] = [capture.sectors[1][1000]] * 2
    layout = parse(capture, BIN, every_block=True)
    assert places(layout) == expected_places(capture, 1000, 40)
    assert note(layout, 1) == "Capture52_2.bin: blocks 2 missing, 2 repeated; complete frames 31 lack pixels, which are blank"


def test_a_jump_to_another_recording_is_refused():
    capture = aligned()
    capture.sectors[3][100:] = [with_count(raw, count_of(raw) + 2000000) for raw in capture.sectors[3][100:]]
    with pytest.raises(FormatError, match=r"^/d/Capture52_4\.bin, byte 2236000: the count of blocks jumps by 2000000; expected at most"):
        parse(capture, BIN)


def test_counts_that_go_on_nowhere_are_no_recording(monkeypatch):
    monkeypatch.setattr(blocks, "MAX_RUNS", 50)
    capture = aligned()
    rng = np.random.default_rng(5)
    capture.sectors[3] = [with_count(raw, int(n)) for raw, n in zip(capture.sectors[3], rng.integers(0, 2**32, 192), strict=True)]
    with pytest.raises(FormatError, match=r"Capture52_4\.bin: counts of blocks do not go on at more than 50 places"):
        parse(capture, BIN)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 127), st.integers(0, 39), st.binary(min_size=1, max_size=8)),
                min_size=1, max_size=6))
def test_damaged_headers_give_blocks_of_the_right_place_or_an_error(damage):
    capture = Capture(4, (0,) * 8, (0,) * 8, shutter=1)
    for k, i, at, new in damage:
        raw = capture.sectors[k][i]
        capture.sectors[k][i] = (raw[:at] + new + raw[at + len(new):])[:40]
    try:
        found = places(parse(capture, BIN))
    except DataSetException as problem:
        assert "\n" not in str(problem) and str(problem).startswith("/d/Capture52_")
        return
    for (_, _, x, y), (path, at) in found.items():
        raw = capture.read(path, at, 40)
        k, i = capture.names.index(path), at // BLOCK
        assert at % BLOCK == 0 and i < 128
        if not any((k, i) == (dk, di) for dk, di, _, _ in damage):
            assert (x, y) == (int.from_bytes(raw[28:30], "big"), int.from_bytes(raw[30:32], "big"))


@pytest.mark.parametrize("k", [0, 5])
def test_a_sector_cut_anywhere_is_an_error_or_has_fewer_frames(k):
    """Every length within some headers, and some others, of one sector."""
    whole = aligned(4, shutter=0)
    stream = b"".join(raw + bytes(22320) for raw in whole.sectors[k])
    edges = [range(low, low + 42) for low in (0, BLOCK - 1, 2 * BLOCK - 1, 32 * BLOCK - 1, 33 * BLOCK - 1)]
    for n in [*(n for edge in edges for n in edge), *np.random.default_rng(k).integers(0, len(stream), 100).tolist()]:
        capture = aligned(4, shutter=0)
        capture.files[whole.names[k]] = stream[:n]
        n_frames = n // (32 * BLOCK)
        if n_frames == 0:
            with pytest.raises((FormatError, TruncatedFile), match=rf"^/d/Capture52_{k + 1}\.bin"):
                parse(capture, BIN)
        else:
            layout = parse(capture, BIN)
            assert layout.image_count == n_frames
            assert all(at + BLOCK <= n for path, at in places(layout).values() if path == whole.names[k])


# -- pixels of damaged captures ------------------------------------------------------------------------------------------


def block_pixels(k, b):
    """Rows and columns of block `b` of sector `k`."""
    x, y = 256 * k + 240 - 16 * (b % 16), 930 * (b // 16)
    return slice(y, y + 930), slice(x, x + 16)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A time series of 4 frames whose sectors lost and repeat blocks: a path, and the frames with zeros where blocks were lost."""
    folder = tmp_path_factory.mktemp("k2is")
    frames = np.random.default_rng(9).integers(1, 4096, (4, 1860, 2048), dtype="u2")
    paths = synth.write(str(folder / "a.gtg"), [frames], nav_shape=(4,), scan=False)
    expected = frames.copy()
    for k, lost, repeated in ((0, [5], []), (3, [31, 32, 33, 70], [100]), (4, range(64, 96), []), (7, [97], [99, 98])):
        stored = np.fromfile(paths[1 + k], "u1").reshape(-1, BLOCK)
        stored[sorted([n for n in range(len(stored)) if n not in lost] + list(repeated))].tofile(paths[1 + k])
        for n in lost:
            expected[n // 32][block_pixels(k, n % 32)] = 0
    yield paths[0], expected
    shutil.rmtree(folder)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pixels_of_lost_blocks_are_zero_and_all_others_exact(damaged, backend):
    path, expected = damaged
    ds = gpuio.load("k2is", path=path, io_backend=BACKENDS[backend](), device="cpu")
    assert len(ds.notes) == 4 and tuple(ds.shape.nav) == (4,)
    assert np.array_equal(ds[...], expected)
    assert np.array_equal(ds[::-1, 925:935, 700:1300], expected[::-1, 925:935, 700:1300])
    found = np.concatenate([np.array(tile.data) for tile in ds.tiles(dtype="float32", threads=2)])
    assert np.array_equal(found, expected.astype("f4"))
    ds.set_num_cores(3)
    found = np.concatenate([part.get_macrotile(dest_dtype="uint16").data for part in ds.get_partitions()])
    assert np.array_equal(found, expected)


def test_pixels_of_lost_blocks_are_not_corrected(damaged):
    path, expected = damaged
    dark = np.random.default_rng(10).normal(size=(1860, 2048)).astype("f4")
    ds = gpuio.load("k2is", path=path, device="cpu")
    found = ds.read(np.arange(4), corrections=CorrectionSet(dark=dark))
    assert np.array_equal(found, np.where(expected > 0, expected.astype("f4") - dark, 0))


def test_a_damaged_capture_is_still_read_in_a_few_large_extents(damaged):
    layout = gpuio.load("k2is", path=damaged[0], device="cpu").layout
    plan = make_plan(layout, np.arange(4), np.array([0, 4]), layout.placements)
    assert len(plan.extents) == 8 + 3       # three repeated blocks are left out
