"""DataTile and get_coordinates."""

from __future__ import annotations

import numpy as np
import pytest
import sparse

from gpuio.errors import GpuioError
from gpuio.shape import Shape, Slice
from gpuio.tile import DataTile, get_coordinates

PIXELS = np.random.default_rng(5).integers(0, 2**16, (3, 5, 7), dtype=np.uint16)
PLACE = Slice((11, 2, 0), Shape((3, 5, 7), sig_dims=2))


class OnDevice:
    """Looks like an array in GPU memory, as far as a tile needs to know."""

    def __init__(self, host: np.ndarray) -> None:
        self._host = host
        self.shape, self.dtype, self.size = host.shape, host.dtype, host.size

    def get(self) -> np.ndarray:
        return self._host

    @property
    def __cuda_array_interface__(self) -> dict:
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (4096, False), "version": 3}

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 1


@pytest.fixture(params=["checked", "lent"])
def tile(request):
    if request.param == "checked":
        return DataTile(PIXELS, PLACE, 4)
    return DataTile.lent(PIXELS, 11, (2, 0), 4)


def test_a_tile_knows_its_pixels_and_its_place(tile):
    assert tile.data is PIXELS
    assert (tile.shape, tile.dtype, tile.ndim, tile.size, tile.nbytes, len(tile)) == ((3, 5, 7), np.uint16, 3, 105, 210, 3)
    assert tile.tile_slice == PLACE
    assert tile.scheme_idx == 4
    assert tile.c_contiguous


def test_flat_data_is_a_view_with_a_row_a_frame(tile):
    assert tile.flat_data.shape == (3, 35)
    assert np.shares_memory(tile.flat_data, PIXELS)
    assert np.array_equal(tile.flat_data, PIXELS.reshape(3, 35))


def test_reshape_takes_a_tuple_or_numbers(tile):
    for found in (tile.reshape((5, 21)), tile.reshape(5, 21), tile.reshape(5, -1)):
        assert type(found) is np.ndarray
        assert np.array_equal(found, PIXELS.reshape(5, 21))
    assert np.array_equal(tile.reshape((5, 21), order="F"), PIXELS.reshape((5, 21), order="F"))


def test_numpy_takes_a_tile_as_an_array(tile):
    assert np.asarray(tile) is PIXELS
    assert np.array_equal(np.asarray(tile, dtype=np.float32), PIXELS.astype(np.float32))
    assert np.array_equal(np.from_dlpack(tile), PIXELS)
    assert np.array_equal(tile[1, 2:4], PIXELS[1, 2:4])
    owned = np.array(tile)
    assert not np.shares_memory(owned, PIXELS)
    with pytest.raises(ValueError, match="copy"):
        np.array(tile, dtype=np.float32, copy=False)


def test_host_pixels_have_no_cuda_interface(tile):
    assert not hasattr(tile, "__cuda_array_interface__")
    assert tile.__dlpack_device__() == (1, 0)


def test_pixels_on_a_device_are_handed_on_and_downloaded_on_request():
    tile = DataTile.lent(OnDevice(PIXELS), 11, (2, 0), 4)
    assert tile.__cuda_array_interface__["data"] == (4096, False)
    assert tile.__dlpack_device__() == (2, 1)
    assert np.array_equal(np.asarray(tile, dtype=np.float64), PIXELS.astype(np.float64))
    with pytest.raises(ValueError, match="without a copy"):
        np.array(tile, copy=False)


def test_a_copy_outlives_the_stream(tile):
    buffer = PIXELS.copy()
    kept = DataTile.lent(buffer, 11, (2, 0), 4).copy()
    buffer[...] = 0
    assert np.array_equal(kept.data, PIXELS)
    assert (kept.tile_slice, kept.scheme_idx) == (tile.tile_slice, 4)


@pytest.mark.parametrize(("place", "message"), [
    (Slice((11, 2, 0), Shape((3, 7, 5), sig_dims=2)), "do not fit"),
    (Slice((11, 2, 0), Shape((4, 5, 7), sig_dims=2)), "do not fit"),
    (Slice((1, 2, 0), Shape((3, 5, 7), sig_dims=1)), "flat nav axis"),
])
def test_a_slice_that_does_not_fit_is_refused(place, message):
    with pytest.raises(ValueError, match=message) as error:
        DataTile(PIXELS, place, 0)
    assert isinstance(error.value, GpuioError)


def frames(origin: int, count: int) -> Slice:
    return Slice((origin, 0, 0), Shape((count, 16, 16), sig_dims=2))


def shape(*nav: int) -> Shape:
    return Shape((*nav, 16, 16), sig_dims=2)


ROI = np.zeros((3, 5), dtype=bool)
ROI[[0, 1, 1, 2], [2, 1, 4, 0]] = True


@pytest.mark.parametrize(("where", "nav", "roi", "expected"), [
    (frames(3, 4), (3, 5), None, [[0, 3], [0, 4], [1, 0], [1, 1]]),
    (frames(5, 2), (2, 3, 4), None, [[0, 1, 1], [0, 1, 2]]),
    (frames(14, 1), (3, 5), None, [[2, 4]]),
    (frames(1, 2), (3, 5), ROI, [[1, 1], [1, 4]]),
    (frames(1, 2), (3, 5), ROI.ravel(), [[1, 1], [1, 4]]),
    (frames(1, 2), (3, 5), sparse.COO.from_numpy(ROI), [[1, 1], [1, 4]]),
    (frames(3, 4), (3, 5), ROI, [[2, 0]]),
])
def test_coordinates_of_a_tile(where, nav, roi, expected):
    found = get_coordinates(where, shape(*nav), roi)
    assert found.dtype == np.int64
    assert found.tolist() == expected


def test_no_frames_have_no_coordinates():
    assert get_coordinates(frames(3, 0), shape(3, 5)).shape == (0, 2)
    assert get_coordinates(frames(3, 0), shape(3, 5), ROI).shape == (0, 2)


@pytest.mark.parametrize(("where", "roi"), [(frames(14, 2), None), (frames(-1, 2), None), (frames(-1, 2), ROI)])
def test_coordinates_outside_of_the_scan_are_refused(where, roi):
    with pytest.raises(ValueError, match="15 positions"):
        get_coordinates(where, shape(3, 5), roi)


def test_coordinates_check_the_size_of_the_roi():
    with pytest.raises(ValueError, match=r"16 entries.*expected 15"):
        get_coordinates(frames(0, 1), shape(3, 5), np.ones(16, dtype=bool))
