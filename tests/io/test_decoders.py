"""The specification's decoders: the true value, in every pair of dtypes and either byte order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuio.io.decoders import Decoder, DefaultDecoder, DtypeConversionDecoder, decode_swap_2, decode_swap_4

WIDE = ["u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8", "c8", "c16"]
NATIVE = [order + name for name in WIDE for order in "<>"] + ["u1", "i1", "?"]
READ = ["u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8", "c8", "c16", ">u2", ">f4", ">f8"]
NO_ARGUMENTS = (np.zeros(3, np.int64), np.zeros(3, np.int64), np.ones(3, np.int64), (2, 7))


def values(dtype: str, n: int = 101) -> np.ndarray:
    """Random bits for integers; numbers that any integer can hold (and fractions) for floats."""
    rng = np.random.default_rng(len(dtype) + ord(dtype[0]) + ord(dtype[-1]))
    dt = np.dtype(dtype)
    if dt.kind == "b":
        return rng.integers(0, 2, n).astype(dt)
    if dt.kind in "ui":
        return rng.integers(0, 256, (n, dt.itemsize), dtype=np.uint8).view(dt).ravel()
    real = rng.uniform(0, 127, n)
    return (real + 1j * rng.uniform(-99, 99, n) if dt.kind == "c" else real).astype(dt)


def decoded(decoder: Decoder, stored: np.ndarray, read: Any) -> np.ndarray:
    out = np.full((3, len(stored)), 77, dtype=read)
    decode = decoder.get_decode(native_dtype=stored.dtype, read_dtype=np.dtype(read))
    item = decoder.get_native_dtype(inp_native_dtype=stored.dtype, read_dtype=np.dtype(read))
    decode(np.frombuffer(stored.tobytes(), np.uint8), out, 1, item, *NO_ARGUMENTS)
    assert (out[[0, 2]] == 77).all()
    return out[1]


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")       # large integers to float16: infinity
@pytest.mark.parametrize("decoder", [DefaultDecoder(), DtypeConversionDecoder()], ids=["default", "conversion"])
@pytest.mark.parametrize("native", NATIVE)
@pytest.mark.parametrize("read", READ)
def test_conversion_is_that_of_the_true_value(decoder: Decoder, native: str, read: str) -> None:
    stored = values(native)
    expected = stored.real if stored.dtype.kind == "c" and np.dtype(read).kind != "c" else stored
    np.testing.assert_array_equal(decoded(decoder, stored, read), expected.astype(read))


@pytest.mark.parametrize(("native", "value", "read", "expected"), [
    (">i2", -3, "f4", -3.0), (">i2", -3, "i4", -3), (">i4", -3, "i8", -3), ("<u4", 300, "u1", 44), (">i2", -3, "i2", -3),
    (">u2", 258, "u2", 258), (">f4", -1.5, "f4", -1.5), (">c8", 2 - 3j, "c8", 2 - 3j), (">u4", 1 << 31, "f8", 2147483648.0),
])
def test_values_known_to_go_wrong_elsewhere(native: str, value: Any, read: str, expected: Any) -> None:
    assert decoded(DtypeConversionDecoder(), np.array([value], native), read)[0] == expected


@pytest.mark.parametrize(("native", "read", "item", "function"), [
    (">u2", "u2", "u1", decode_swap_2), (">u4", "f4", "u1", decode_swap_4), (">i2", "f4", "i2", decode_swap_2),
    (">f4", "f8", "f4", decode_swap_4), (">u2", ">u2", ">u2", None), ("<u2", "f4", "<u2", None), (">u1", "f4", "u1", None),
    (">u8", "u8", ">u8", None), ("<u4", "u1", "<u4", None),
])
def test_bytes_are_swapped_only_where_byte_orders_differ(native: str, read: str, item: str, function: Any) -> None:
    decoder = DtypeConversionDecoder()
    chosen = decoder.get_decode(native_dtype=np.dtype(native), read_dtype=np.dtype(read))
    assert decoder.get_native_dtype(np.dtype(native), np.dtype(read)) == np.dtype(item)
    assert (chosen is function) if function is not None else (chosen not in (decode_swap_2, decode_swap_4))


@pytest.mark.parametrize(("function", "native", "item"), [
    (decode_swap_2, ">u2", "u1"), (decode_swap_2, ">i2", "i2"), (decode_swap_4, ">u4", "u1"), (decode_swap_4, ">f4", "f4"),
])
def test_swapping_functions_compile(function: Any, native: str, item: str) -> None:
    numba = pytest.importorskip("numba")
    stored = values(native)
    out = np.full((2, len(stored)), 77, dtype=np.float64)
    numba.njit(function)(np.frombuffer(stored.tobytes(), np.uint8), out, 0, np.dtype(item), *NO_ARGUMENTS)
    np.testing.assert_array_equal(out[0], stored.astype(np.float64))
    assert (out[1] == 77).all()


def test_a_decoder_that_says_nothing_keeps_pixels_and_dtype() -> None:
    class Mine(Decoder):
        def get_decode(self, native_dtype: Any, read_dtype: Any) -> Any:
            return None

    assert Mine().do_clear() is False
    assert Mine().get_native_dtype(">u2", "f4") == np.dtype(">u2")


def test_a_decoder_without_a_decode_function_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="get_decode"):
        Decoder()  # type: ignore[abstract]
