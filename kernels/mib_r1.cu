// mib_r1: Merlin RAW, counter depth 1. Eight bytes hold 64 pixels, one bit each; they are a big-endian number whose bit k
// is pixel k.
//
//   byte      0       1    ...    7
//   pixels  63..56  55..48 ...  7..0      (high bit first)
//
// Source: recorded files (single chip and quad) against their U08 twins. Traffic: 1/8 byte in, the result out; up to 16
// threads share a group.
#include "driver.cuh"

struct mib_r1 {
    static constexpr int bits = 1, group_bytes = 8, group_pixels = 64, planes = 1;

    template <int N> static __device__ __forceinline__ void ascend(u32 (&w)[N]) { reverse_groups<8>(w); }

    template <int N> static __device__ __forceinline__ u8 unpack(const u32 (&w)[1][N], int i) { return (u8)field<1>(w[0], i); }
};
