// mib_r12: Merlin RAW, counter depth 12. Eight bytes hold 4 pixels, big-endian words of 2 bytes, the last pixel first.
// Values are not masked.
//
//   byte   0 1 | 2 3 | 4 5 | 6 7
//   pixel   3  |  2  |  1  |  0
//
// Traffic: 2 bytes in, the result out.
#include "driver.cuh"

struct mib_r12 {
    static constexpr int bits = 16, group_bytes = 8, group_pixels = 4, planes = 1;

    template <int N> static __device__ __forceinline__ void ascend(u32 (&w)[N]) { reverse_groups<8>(w); }

    template <int N> static __device__ __forceinline__ u16 unpack(const u32 (&w)[1][N], int i) { return (u16)field<16>(w[0], i); }
};
