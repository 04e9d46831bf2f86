"""Users' own decoders, through data sets and partitions: the specification's extension point for encodings."""

from __future__ import annotations

import numpy as np
import pytest

from gpuio.base import BufferedBackend, CorrectionSet, Decoder, DirectBackend, DtypeConversionDecoder, MMapBackend, TilingScheme
from gpuio.errors import UnsupportedFeature
from gpuio.shape import Shape
from tests.pipeline.plain_files import PlainFiles, random_frames, write_files

SIG = (6, 8)


class Inverted(Decoder):
    """Bytes counted down from 255; adds to what is there, so it needs a cleared tile."""

    def do_clear(self):
        return True

    def get_native_dtype(self, inp_native_dtype, read_dtype):
        return inp_native_dtype

    def get_decode(self, native_dtype, read_dtype):
        def decode(inp, out, idx, native_dtype, rr, origin, shape, ds_shape):
            out[idx] += 255 - inp

        return decode


class WithDecoder(PlainFiles):
    decoder: Decoder

    def get_decoder(self):
        return self.decoder


def build(tmp_path, frames, dtype, backend, decoder, sync_offset=0, counts=(4, 3, 6), **sizes):
    sizes = {"file_header": 3, "frame_header": 0, "frame_footer": 0, **sizes}
    paths = write_files(tmp_path, frames, list(counts), rng=np.random.default_rng(1), **sizes)
    ds = WithDecoder(paths, list(counts), dtype, frames.shape[1:], (13,), sync_offset, io_backend=backend, num_partitions=3, **sizes)
    ds.decoder = decoder
    return ds.initialize().to("cpu")


@pytest.mark.parametrize("backend", [MMapBackend(), BufferedBackend(), DirectBackend()], ids=lambda b: b.id)
@pytest.mark.parametrize("dtype, dest", [(">i2", "f4"), (">i2", "i4"), (">u2", "f4"), (">i4", "i8"), (">f4", "f8"), ("<u4", "u1"),
                                          ("<i2", "f4")])
def test_the_conversion_decoder_gives_true_values(tmp_path, backend, dtype, dest):
    frames = random_frames(np.random.default_rng(3), 13, SIG, np.dtype(dtype))
    ds = build(tmp_path, frames, dtype, backend, DtypeConversionDecoder(), sync_offset=-2)
    scheme = TilingScheme.make_for_shape(Shape((2, 3, 8), sig_dims=2), ds.shape)
    expected = np.zeros((13, *SIG), dest)
    expected[2:] = frames[:11].astype(dest)
    seen = np.zeros(13, int)
    for part in ds.get_partitions():
        for tile in part.get_tiles(scheme, dest_dtype=dest):
            np.testing.assert_array_equal(np.asarray(tile.data), expected[tile.tile_slice.get()])
            seen[tile.tile_slice.get(nav_only=True)] += 1
        whole = part.get_macrotile(dest)
        np.testing.assert_array_equal(np.asarray(whole.data), expected[whole.tile_slice.get(nav_only=True)])
    assert seen.tolist() == [0, 0] + [2] * 11


@pytest.mark.parametrize("backend", [MMapBackend(), BufferedBackend(), DirectBackend()], ids=lambda b: b.id)
def test_a_decoder_of_ones_own_decodes_boxes_of_frames(tmp_path, backend):
    frames = random_frames(np.random.default_rng(4), 13, SIG, np.dtype("u1"))
    ds = build(tmp_path, frames, "u1", backend, Inverted(), sync_offset=1)
    scheme = TilingScheme.make_for_shape(Shape((3, 4, 8), sig_dims=2), ds.shape)
    roi = np.random.default_rng(5).integers(0, 2, 13).astype(bool)
    expected = (255 - frames[np.flatnonzero(roi)[np.flatnonzero(roi) < 12] + 1].astype("f4"))
    seen = np.zeros(expected.shape, int)
    for part in ds.get_partitions():
        for tile in part.get_tiles(scheme, roi=roi):
            np.testing.assert_array_equal(np.asarray(tile.data), expected[tile.tile_slice.get()])
            seen[tile.tile_slice.get()] += 1
    assert (seen == 1).all()


def test_a_users_decoder_is_not_given_a_part_of_the_detector(tmp_path):
    ds = build(tmp_path, random_frames(np.random.default_rng(5), 13, SIG, np.dtype("u1")), "u1", MMapBackend(), Inverted())
    with pytest.raises(UnsupportedFeature, match=r"part0\.bin: frames that Inverted decodes cannot be cropped or binned"):
        next(ds.reduce(((2, 5), (1, 7))).get_partitions())


@pytest.mark.parametrize("sync_offset", [-2, 0, 3])
def test_whatever_reads_pixels_of_a_data_set_knows_its_decoder(tmp_path, sync_offset):
    frames = random_frames(np.random.default_rng(6), 13, SIG, np.dtype("u1"))
    ds = build(tmp_path, frames, "u1", MMapBackend(), Inverted(), sync_offset=sync_offset)
    truth, present = np.zeros((13, *SIG), "u1"), np.zeros(13, bool)
    first, stop = max(0, -sync_offset), min(13, 13 - sync_offset)
    truth[first:stop], present[first:stop] = 255 - frames[first + sync_offset:stop + sync_offset], True
    roi = np.random.default_rng(7).random(13) < 0.6
    for some, depth in ((None, None), (None, 2), (roi, None), (roi, 3)):
        chosen = np.flatnonzero(np.ones(13, bool) if some is None else some)
        seen = np.zeros(len(chosen), int)
        for tile in ds.tiles(roi=some, depth=depth):
            at = tile.tile_slice.get(nav_only=True)
            np.testing.assert_array_equal(np.asarray(tile.data), truth[chosen][at])
            assert tile.data.dtype == "u1" and len(tile.data) <= (depth or 13)
            seen[at] += 1
        np.testing.assert_array_equal(seen, present[chosen])
        scan, pattern = ds.summary(roi=some, threads=2)
        np.testing.assert_array_equal(scan, truth[chosen].sum(axis=(1, 2), dtype="u8"))
        np.testing.assert_array_equal(pattern, truth[chosen].sum(axis=0, dtype="u8"))
    np.testing.assert_array_equal(ds[...], truth)
    np.testing.assert_array_equal(ds[5], truth[5])
    np.testing.assert_array_equal(ds[[7, 2, 7], 1:4, 6], truth[[7, 2, 7], 1:4, 6])
    np.testing.assert_array_equal(ds[roi], truth[roi])
    dark = np.random.default_rng(8).normal(5, 1, SIG)
    np.testing.assert_array_equal(ds.pixels(dtype="f4", corrections=CorrectionSet(dark=dark))[present],
                                  (truth[present].astype("f8") - dark).astype("f4"))
    boxes = TilingScheme.make_for_shape(Shape((3, 2, 8), sig_dims=2), ds.shape)
    for depth in (None, 2):
        whole, depths = np.zeros_like(truth), set()
        for tile in ds.tiles(tiling_scheme=boxes, depth=depth):
            whole[tile.tile_slice.get()] = tile.data
            depths.add(len(tile.data))
        np.testing.assert_array_equal(whole, truth)
        assert max(depths) == (depth or 3)
    assert (ds.explain().encoding, ds.explain().as_stored) == ("Inverted", False)
    with pytest.raises(UnsupportedFeature, match="cannot be cropped or binned"):
        next(ds.tiles(bin_sig=2))
