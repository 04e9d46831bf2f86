// mib_r6: Merlin RAW, counter depth 6. Eight bytes hold 8 pixels, the last one first. Values are not masked.
//
//   byte   0 1 2 3 4 5 6 7
//   pixel  7 6 5 4 3 2 1 0
//
// Traffic: 1 byte in, the result out.
#include "driver.cuh"

struct mib_r6 {
    static constexpr int bits = 8, group_bytes = 8, group_pixels = 8, planes = 1;

    template <int N> static __device__ __forceinline__ void ascend(u32 (&w)[N]) { reverse_groups<8>(w); }

    template <int N> static __device__ __forceinline__ u8 unpack(const u32 (&w)[1][N], int i) { return (u8)field<8>(w[0], i); }
};
