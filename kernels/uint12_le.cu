// uint12_le: Gatan K2 IS. Three bytes hold two pixels of 12 bits, low bits first.
//
//   byte        0          1            2
//   bits    p0[7:0]  p1[3:0] p0[11:8]  p1[11:4]
//
// So a row is one little-endian number whose bits 12 k ... 12 k + 11 are pixel k, and nothing need be put in order.
// Traffic: 1.5 bytes in, the result out.
#include "driver.cuh"

struct uint12_le {
    static constexpr int bits = 12, group_bytes = 3, group_pixels = 2, planes = 1;

    template <int N> static __device__ __forceinline__ void ascend(u32 (&)[N]) {}

    template <int N> static __device__ __forceinline__ u16 unpack(const u32 (&w)[1][N], int i) { return (u16)field<12>(w[0], i); }
};
