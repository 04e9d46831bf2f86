"""The writer of MIB files: headers and bytes compared with what Merlin writes, worked out by hand."""

from __future__ import annotations

import pathlib
from datetime import UTC, datetime

import numpy as np
import pytest

from gpuio.errors import DataSetException, ShapeError
from gpuio.synth.mib import write


def random_frames(n, shape, top, seed=1):
    return np.random.default_rng(seed).integers(0, top, (n, *shape), dtype="u4")


def write_one(folder, frame, **kwargs):
    """The bytes of a single frame after its header."""
    path = str(folder / "one.mib")
    write(path, [np.asarray(frame)[np.newaxis]], nav_shape=(1,), sig_shape=np.shape(frame), hdr=False, **kwargs)
    return (folder / "one.mib").read_bytes()[768 if kwargs.get("layout", "1x1") != "1x1" else 384:]


@pytest.mark.parametrize("kind,frame,expected", [
    ("U08", [[1, 2, 255]], "0102ff"), ("U16", [[1, 0xABCD]], "0001abcd"), ("U32", [[0x01020304]], "01020304"),
    ("R1", [[int(x in (7, 56)) for x in range(64)]], "0100000000000080"),
    ("R6", [[7, 6, 5, 4, 3, 2, 1, 0]], "0001020304050607"),
    ("R12", [[4095, 3, 2, 1]], "0001000200030fff"),
    ("R24", [[0xABCDEF, 0, 0, 1]], "0000000000000abc0001000000000def"),
    ("R24", [[0x001002, 0, 0, 0], [0x003004, 0, 0, 0]], "0000000000000001" "0000000000000003" "0000000000000002" "0000000000000004"),
])
def test_worked_examples(tmp_path, kind, frame, expected):
    assert write_one(tmp_path, frame, kind=kind).hex() == expected


@pytest.mark.parametrize("target,row,block,x", [
    ((0, 0), 0, 3, 0), ((0, 8), 0, 2, 0), ((15, 7), 0, 1, 0), ((15, 15), 0, 0, 0), ((7, 7), 7, 3, 7), ((8, 8), 7, 0, 7), ((13, 3), 2, 1, 4),
])
def test_quads_are_stored_as_rows_of_four_chips_the_bottom_ones_turned(tmp_path, target, row, block, x):
    frame = np.zeros((16, 16), "u1")
    frame[target] = 63
    stored = np.frombuffer(write_one(tmp_path, frame, kind="R6", layout="2x2"), "u1").reshape(8, 4, 8)
    assert np.argwhere(stored).tolist() == [[row, block, x ^ 7]]


def test_a_frame_header_is_as_merlin_writes_it(tmp_path):
    frames = random_frames(3, (5, 8), 4096)
    path = str(tmp_path / "a.mib")
    write(path, [frames], nav_shape=(1, 3), sig_shape=(5, 8), kind="R12", exposure_s=0.25, line_pause_s=9.0, first_sequence=41,
          start=datetime(2021, 4, 15, 13, 44, 43, 100924, UTC), header_bytes=400)
    whole = (tmp_path / "a.mib").read_bytes()
    assert len(whole) == 3 * (400 + 80)
    dacs = "3RX,011,511,000,000,000,000,000,000,175,010,200,125,100,100,093,100,099,030,128,004,255,140,128,191,179,511,511"
    zeros = ",".join(["0.000000E+0"] * 6)
    for i, second in enumerate(("43.100924", "43.350924", "43.600924")):
        header = whole[i * 480:i * 480 + 400]
        assert header.rstrip(b"\0").decode() == (
            f"MQ1,{41 + i:06d},00400,01,0008,0005,R64,   1x1,01,2021-04-15 13:44:{second},0.250000,0,0,0,2.000000E+0,5.110000E+2,{zeros},"
            f"{dacs},MQ1A,2021-04-15T13:44:{second}000Z,250000000ns,12,")


def test_time_stamps_pause_after_each_line(tmp_path):
    path = str(tmp_path / "a.mib")
    write(path, [random_frames(5, (2, 3), 9)], nav_shape=(5, 1), sig_shape=(2, 3), kind="U08", exposure_s=0.5, line_pause_s=2.0, hdr=False)
    whole = (tmp_path / "a.mib").read_bytes()
    seconds = [whole[i * 390:i * 390 + 384].split(b",")[9][-9:].decode() for i in range(5)]
    assert seconds == ["00.000000", "02.500000", "05.000000", "07.500000", "10.000000"]


def test_stacks_of_any_size_fill_files_of_any_size(tmp_path):
    frames = random_frames(11, (3, 8), 4096)
    paths = write(str(tmp_path / "run7.mib"), iter([frames[:1], frames[1:6], frames[6:6], frames[6:]]), nav_shape=(11,), sig_shape=(3, 8),
                  frames_per_file=4)
    assert [p.rsplit("/")[-1] for p in paths] == ["run7.hdr", "run7_1.mib", "run7_2.mib", "run7_3.mib"]
    stride = 384 + 48
    expected = frames.reshape(11, 6, 4)[:, :, ::-1].astype(">u2").tobytes()
    found = b""
    for k, path in enumerate(paths[1:]):
        whole = pathlib.Path(path).read_bytes()
        assert len(whole) == stride * (4, 4, 3)[k]
        for j in range(len(whole) // stride):
            assert whole[j * stride:].startswith(b"MQ1,%06d," % (4 * k + j + 1))
            found += whole[j * stride + 384:(j + 1) * stride]
    assert found == expected


def test_the_hdr_tells_the_scan(tmp_path):
    write(str(tmp_path / "a.hdr"), [random_frames(6, (2, 3), 9)], nav_shape=(2, 3), sig_shape=(2, 3), kind="U16")
    text = (tmp_path / "a.hdr").read_bytes()
    assert len(text) == 2048 and text.startswith(b"HDR,\t\r\n") and text.rstrip(b" ").endswith(b"\r\nEnd\t")
    for line in (b"Frames in Acquisition (Number):\t6", b"Frames per Trigger (Number):\t3", b"ScanX:\t3", b"ScanY:\t2",
                 b"Counter Depth (number):\t12"):
        assert b"\r\n" + line + b"\r\n" in text


def test_progress_counts_frames(tmp_path):
    frames, seen = random_frames(5, (2, 3), 9), []
    write(str(tmp_path / "a.mib"), [frames[:2], frames[2:]], nav_shape=(5,), sig_shape=(2, 3), kind="U08",
          progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 5), (5, 5)]


@pytest.mark.parametrize("kwargs,error,message", [
    ({"kind": "R7"}, DataSetException, "kind 'R7'"), ({"layout": "3x1"}, DataSetException, "layout '3x1'"),
    ({"kind": "R12", "layout": "Nx1"}, DataSetException, "described by nobody"),
    ({"kind": "R24", "layout": "2x2"}, DataSetException, "described by nobody"),
    ({"kind": "R1"}, ShapeError, "multiple of 64"), ({"kind": "R12", "layout": "2x2"}, ShapeError, "square"),
    ({"nav_shape": (2, 0)}, ShapeError, "nav_shape"), ({"nav_shape": (4,)}, ShapeError, "at least 5 frames"),
    ({"nav_shape": (6,)}, ShapeError, "there are 5 frames; expected 6"), ({"frames_per_file": 0}, ShapeError, "frames_per_file is 0"),
    ({"sig_shape": (5, 8)}, ShapeError, "stack of frames"), ({"sig_shape": (80,)}, ShapeError, "height, width"),
    ({"header_bytes": 100}, DataSetException, "need 3"), ({"kind": "R6"}, DataSetException, "cannot be written as R6; expected 0 to 63"),
])
def test_what_cannot_be_written_leaves_no_files(tmp_path, kwargs, error, message):
    frames = np.full((5, 5, 16), 4095)
    arguments = {"nav_shape": (5,), "sig_shape": (5, 16), "frames_per_file": 2, **kwargs}
    with pytest.raises(error, match=message):
        write(str(tmp_path / "a.mib"), [frames[:3], frames[3:]], **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("frames", [np.full((1, 2, 4), -1), np.full((1, 2, 4), 0.5)])
def test_negative_and_fractional_values_are_refused(tmp_path, frames):
    with pytest.raises(DataSetException, match="cannot be written as U32"):
        write(str(tmp_path / "a.mib"), [frames], nav_shape=(1,), sig_shape=(2, 4), kind="U32")


def test_a_failure_keeps_earlier_files_of_the_same_name(tmp_path):
    path, frames = str(tmp_path / "a.mib"), random_frames(2, (2, 4), 9)
    write(path, [frames], nav_shape=(2,), sig_shape=(2, 4), kind="U08")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def breaks():
        yield frames[:1]
        raise OSError("the detector is gone")

    with pytest.raises(OSError, match="detector"):
        write(path, breaks(), nav_shape=(2,), sig_shape=(2, 4), kind="U08")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
