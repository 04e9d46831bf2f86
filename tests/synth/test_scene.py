"""Synthetic scans: the same however they are cut, and what their docstring says of their statistics."""

from __future__ import annotations

import numpy as np
import pytest

from gpuio.errors import ShapeError
from gpuio.synth import Flat, Scene


@pytest.fixture(scope="module")
def frames():
    return Scene((24, 24), (48, 40), seed=3, dark=0, gain=0).frames(0, 576)


@pytest.mark.parametrize("scene", [Scene((5, 7), (11, 13), seed=1, dead_pixels=3), Flat((5, 7), (11, 13), 12, seed=1)])
def test_frames_do_not_depend_on_how_they_are_asked_for(scene):
    whole = scene.frames(0, 35)
    assert whole.shape == (35, 11, 13)
    np.testing.assert_array_equal(np.concatenate([scene.frames(i, i + 1) for i in range(35)]), whole)
    np.testing.assert_array_equal(np.concatenate([scene.frames(0, 17), scene.frames(17, 17), scene.frames(17, 35)]), whole)
    np.testing.assert_array_equal(np.concatenate(list(scene)), whole)
    assert len(scene) == 35


@pytest.mark.parametrize("make", [lambda seed: Scene((3, 5), (11, 13), seed=seed), lambda seed: Flat((3, 5), (11, 13), 12, seed=seed)])
def test_the_seed_decides(make):
    np.testing.assert_array_equal(make(1).frames(0, 15), make(1).frames(0, 15))
    assert not np.array_equal(make(1).frames(0, 15), make(2).frames(0, 15))


def test_large_scans_come_in_stacks_of_bounded_size():
    stacks = list(Flat((3, 5), (512, 512), 9))
    assert [len(s) for s in stacks] == [8, 7]


@pytest.mark.parametrize("nav_shape", [(1,), (7,), (2, 3, 5)])
@pytest.mark.parametrize("sig_shape", [(1,), (17,), (1, 1), (3, 4), (1, 16), (16, 1), (2, 5, 7)])
def test_any_shape_can_be_made(nav_shape, sig_shape):
    found = Scene(nav_shape, sig_shape, dead_pixels=1).frames(0, int(np.prod(nav_shape)))
    assert found.shape == (np.prod(nav_shape), *sig_shape)
    assert found.dtype == np.uint16


def test_frames_differ_from_each_other(frames):
    assert len(np.unique(frames.reshape(len(frames), -1), axis=0)) == len(frames)


def test_counts_in_the_disk_are_the_dose_where_no_specimen_is(frames):
    vacuum = frames.reshape(24, 24, 48, 40)[:, :4, 22:26, 18:22]
    assert vacuum.mean() == pytest.approx(64, rel=0.06)


def test_counts_of_vacuum_vary_like_poisson_numbers():
    # 400 frames, one above the other in a scan so wide that the first columns are all vacuum and the pattern hardly moves.
    scene = Scene((1, 8000), (48, 40), seed=5, dark=0, gain=0)
    counts = scene.frames(0, 400).astype(float)
    mean, variance = counts.mean(axis=0), counts.var(axis=0)
    lit = mean > 30
    assert lit.sum() > 20
    # The mean of variance / mean is 1 within the noise of few pixels; sums of fewer, shared images would be far off.
    assert (variance[lit] / mean[lit]).mean() == pytest.approx(1, abs=0.2)


def test_the_scan_image_shows_the_edge_of_the_specimen_and_its_thickness(frames):
    disk = frames.reshape(24, 24, 48, 40)[:, :, 20:28, 16:24].sum(axis=(2, 3), dtype=float)
    assert disk[:, :4].mean() > 1.15 * disk[:, 10:14].mean() > 1.15 * disk[:, 20:].mean()


def test_the_specimen_scatters_into_bragg_disks(frames):
    y, x = np.ogrid[:48, :40]
    ring = np.abs(np.hypot(y - 23.5, x - 19.5) - 0.31 * 40) < 3
    scan = frames.reshape(24, 24, 48, 40)
    assert scan[:, 12:][..., ring].mean() > 1.5 * scan[:, :4][..., ring].mean()


def test_the_pattern_moves_slowly_over_the_scan(frames):
    y = np.arange(48)[:, None]
    centre = (frames.reshape(24, 24, 48, 40)[:, :4] * y).sum(axis=(1, 2, 3)) / frames.reshape(24, 24, 48, 40)[:, :4].sum(axis=(1, 2, 3))
    assert np.ptp(centre) > 1
    assert np.abs(np.diff(centre)).max() < 1.5


def test_counters_stop_at_their_largest_count():
    assert Scene((3, 5), (32, 32), dose=200, bits=6).frames(0, 15).max() == 63
    assert Scene((3, 5), (32, 32), dose=10_000).frames(0, 15).max() > 9_000


def test_corrections_give_the_ideal_frames_back():
    ideal = Scene((3, 5), (32, 32), seed=7, dark=0, gain=0)
    scene = Scene((3, 5), (32, 32), seed=7, dark=5, gain=0.05)
    assert scene.dark.dtype == scene.gain.dtype == np.float32
    assert scene.dark.mean() == pytest.approx(5, rel=0.1)
    assert 0.02 < scene.gain.std() < 0.1
    corrected = (scene.frames(0, 15) - scene.dark) * scene.gain
    assert not np.array_equal(scene.frames(0, 15), ideal.frames(0, 15))
    np.testing.assert_allclose(corrected, ideal.frames(0, 15), atol=0.5 * scene.gain.max() + 1e-3)     # rounded to whole counts


def test_an_ideal_detector_has_neutral_corrections():
    scene = Scene((3, 5), (7, 11), dark=0, gain=0)
    assert not scene.dark.any()
    assert (scene.gain == 1).all()
    assert not scene.dead.any()


def test_dead_pixels_are_stuck_at_both_ends():
    scene = Scene((3, 5), (32, 32), bits=12, dead_pixels=5)
    assert scene.dead.sum() == 5
    stuck = scene.frames(0, 15)[:, scene.dead]
    assert (stuck == stuck[0]).all()
    assert sorted(stuck[0]) == [0, 0, 0, 4095, 4095]


@pytest.mark.parametrize("bits", [1, 7, 8, 12, 16, 17, 24, 32])
def test_flat_counts_are_uniform_over_all_values(bits):
    counts = Flat((50,), (31, 37), bits, seed=1).frames(0, 50)
    assert counts.dtype == {1: "u1", 2: "u2", 4: "u4"}[1 if bits <= 8 else 2 if bits <= 16 else 4]
    assert counts.max() < 2**bits
    eighths = np.bincount((counts.ravel().astype("u8") * 8 >> bits).astype(int), minlength=8)
    used = eighths[:8:4] if bits == 1 else eighths
    np.testing.assert_allclose(used, counts.size / len(used), rtol=0.05)
    assert len(np.unique(counts.reshape(50, -1), axis=0)) == 50


def test_flat_counts_of_a_scene_have_its_shape():
    flat = Scene((3, 5), (7, 11), seed=4).flat(12)
    assert flat.frames(2, 6).shape == (4, 7, 11)
    np.testing.assert_array_equal(flat.frames(2, 6), Flat((3, 5), (7, 11), 12, seed=4).frames(2, 6))


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 2), (0, 16), (16, 16)])
def test_frames_outside_of_the_scan_are_refused(start, stop):
    with pytest.raises(ShapeError, match="not in a scan of 15"):
        Scene((3, 5), (7, 11)).frames(start, stop)


@pytest.mark.parametrize("shapes", [((), (7, 11)), ((3, 5), ()), ((3, 0), (7, 11)), ((3, 5), (-7, 11))])
def test_scans_without_positions_or_pixels_are_refused(shapes):
    with pytest.raises(ShapeError, match="a scan needs positions and pixels"):
        Scene(*shapes)


@pytest.mark.parametrize("kwargs", [
    {"dose": 0}, {"dose": 1e6}, {"bits": 0}, {"bits": 17}, {"dark": -1}, {"gain": 0.5}, {"dead_pixels": 78}, {"dead_pixels": -1},
])
def test_parameters_out_of_range_are_refused(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        Scene((3, 5), (7, 11), **kwargs)


@pytest.mark.parametrize("bits", [0, 33])
def test_flat_counts_of_no_depth_are_refused(bits):
    with pytest.raises(ValueError, match="expected 1 to 32"):
        Flat((3, 5), (7, 11), bits)
