// swap: pixels are items of 2, 4 or 8 bytes in the other byte order than the machine's (big-endian).
//
//   byte   1 0 | 3 2 | ...      (u2: the high byte comes first)
//   pixel   0  |  1  | ...
//
// Traffic: the item in, the result out.
#include "driver.cuh"

template <class T> struct swap {
    static constexpr int bits = 8 * sizeof(T), group_bytes = sizeof(T), group_pixels = 1, planes = 1;

    template <int N> static __device__ __forceinline__ void ascend(u32 (&w)[N]) { reverse_groups<sizeof(T)>(w); }

    template <int N> static __device__ __forceinline__ T unpack(const u32 (&w)[1][N], int i)
    {
        return bits_as<T>(field<bits>(w[0], i));
    }
};
