"""Pictures: which value becomes which grey, and where it lands in the PNG."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gpuio
from gpuio import preview


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(77)


def test_percentiles_become_black_and_white(rng: np.random.Generator) -> None:
    image = rng.normal(50, 9, (41, 53))
    grey, low, high = preview.stretch(image)
    assert (low, high) == tuple(np.percentile(image, (preview.BLACK, preview.WHITE)))
    expected = np.clip((image - low) / (high - low), 0, 1) * 255
    assert np.abs(grey - expected).max() <= 0.5
    assert grey.dtype == np.uint8


def test_a_hot_pixel_does_not_darken_the_rest(rng: np.random.Generator) -> None:
    image = rng.uniform(10, 20, (43, 47))
    image[5, 7] = 1e9
    grey, _, high = preview.stretch(image)
    assert high < 20.1
    assert grey[5, 7] == 255
    assert 100 < np.median(grey) < 155


def test_logarithmic_grey_grows_by_equal_steps_for_equal_factors() -> None:
    image = np.repeat(10.0 ** np.arange(-2, 3), 400).reshape(40, 50)
    grey, low, high = preview.stretch(image, log=True)
    assert (low, high) == pytest.approx((0.01, 100))
    assert np.abs(np.unique(grey) - np.arange(5) * 63.75).max() < 1


def test_values_that_have_no_logarithm_are_black(rng: np.random.Generator) -> None:
    image = rng.uniform(1, 100, (31, 29))
    image[:3] = 0
    image[3:6] = -5
    grey, low, _ = preview.stretch(image, log=True)
    assert low > 0
    assert not grey[:6].any()


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("image", [np.zeros((3, 5)), np.full((3, 5), 7.0), np.full((3, 5), -7.0), np.full((3, 5), np.nan),
                                   np.array([[1.0, np.inf], [-np.inf, np.nan]])])
def test_images_with_nothing_to_stretch_are_drawn_without_complaint(image: np.ndarray, log: bool) -> None:
    with np.errstate(all="raise", over="warn"):
        grey, low, high = preview.stretch(image, log=log)
    assert grey.shape == image.shape
    assert np.isfinite([low, high]).all()
    assert not grey[np.isnan(image)].any()


def test_a_line_becomes_a_strip_that_can_be_seen(rng: np.random.Generator) -> None:
    line = rng.random(61)
    for values in (line, line[:, None], line[None, :, None]):
        strip = preview.flat_image(values)
        assert strip.shape == (61 // 12, 61)
        assert (strip == line).all()


def test_further_axes_become_a_mosaic_filled_row_by_row(rng: np.random.Generator) -> None:
    stack = rng.random((5, 7, 11))
    mosaic = preview.flat_image(stack)
    down, across = mosaic.shape[0] // 7, mosaic.shape[1] // 11
    assert down * across >= 5
    for k in range(down * across):
        y, x = k // across * 7, k % across * 11
        part = mosaic[y:y + 7, x:x + 11]
        assert np.isnan(part).all() if k >= 5 else np.array_equal(part, stack[k])


def test_complex_values_are_shown_by_magnitude(rng: np.random.Generator) -> None:
    values = rng.random((3, 5)) + 1j * rng.random((3, 5))
    assert np.array_equal(preview.flat_image(values), np.abs(values))


def test_small_images_are_enlarged_by_a_whole_factor_without_smoothing() -> None:
    checks = np.indices((13, 17)).sum(axis=0) % 2 * 1.0
    drawn = np.asarray(preview.picture([preview.Panel(checks, "checks")]))
    top, left, factor = preview.MARGIN + preview.TEXT + 9, preview.MARGIN, preview.PANEL // 17
    panel = drawn[top:top + 13 * factor, left:left + 17 * factor]
    assert np.array_equal(panel, np.kron(checks, np.ones((factor, factor))) * 255)


def test_large_images_are_averaged_down_with_their_aspect_kept(rng: np.random.Generator) -> None:
    image = rng.random((1301, 701))
    small = preview._averaged(image, 3)
    assert small.shape == (434, 234)
    for y, x in ((0, 0), (7, 100), (433, 233)):
        assert small[y, x] == pytest.approx(image[3 * y:3 * y + 3, 3 * x:3 * x + 3].mean(), rel=1e-12)


def test_panels_stand_side_by_side(rng: np.random.Generator) -> None:
    one = preview.picture([preview.Panel(rng.random((3, 5)), "a")])
    two = preview.picture([preview.Panel(rng.random((3, 5)), "a"), preview.Panel(rng.random((500, 100)), "b")])
    assert two.width == one.width + 200 + preview.MARGIN        # the narrowest that leaves room for the numbers
    assert two.height == one.height + 500 - 3 * (preview.PANEL // 5)
    assert two.mode == "L"


def test_summary_of_a_scan_with_blanks_is_the_mean_of_what_is_there(tmp_path: Path, rng: np.random.Generator) -> None:
    frames = rng.integers(0, 60000, (13, 11, 7)).astype("<u2")
    frames.tofile(tmp_path / "scan.bin")
    ds = gpuio.load("raw", path=tmp_path / "scan.bin", dtype="<u2", sig_shape=(11, 7), nav_shape=(3, 5), sync_offset=-4, device="cpu")
    scan, pattern = preview.summarise(ds)
    shown = frames[:11].astype(np.uint64)
    expected = np.zeros(15, dtype=np.uint64)
    expected[4:] = shown.sum(axis=(1, 2))
    assert np.array_equal(scan, expected.reshape(3, 5))
    assert np.array_equal(pattern, shown.sum(axis=0) / 11)


def test_save_replaces_a_picture_as_a_whole_and_leaves_nothing_beside_it(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "x.png"
    image = Image.fromarray(rng.integers(0, 256, (23, 19), dtype=np.uint8))
    previous = os.umask(0o027)
    try:
        path.write_bytes(b"old")
        preview.save(image, path)
    finally:
        os.umask(previous)
    with Image.open(path) as read:
        assert np.array_equal(np.asarray(read), np.asarray(image))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    class Unwritable:
        def save(self, file: object, format: str) -> None:
            raise OSError(28, "No space left on device")

    path = tmp_path / "x.png"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"):
        preview.save(Unwritable(), path)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_single_counts_on_nothing_are_white_on_black() -> None:
    image = np.zeros((19, 23))
    image[3, 5] = image[11, 7] = 1
    for log in (False, True):
        grey, low, high = preview.stretch(image, log=log)
        assert (low, high) == (0.0, 1.0)
        np.testing.assert_array_equal(grey, image * 255)
