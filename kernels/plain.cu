// plain: pixels are items in the byte order of the machine, of 1, 2, 4 or 8 bytes.
//
//   byte   0 1 | 2 3 | ...      (u2)
//   pixel   0  |  1  | ...
//
// Traffic: the item in, the result out.
#include "driver.cuh"

template <class T> struct plain {
    static constexpr int bits = 8 * sizeof(T), group_bytes = sizeof(T), group_pixels = 1, planes = 1;

    template <int N> static __device__ __forceinline__ void ascend(u32 (&)[N]) {}

    template <int N> static __device__ __forceinline__ T unpack(const u32 (&w)[1][N], int i)
    {
        return bits_as<T>(field<bits>(w[0], i));
    }
};
