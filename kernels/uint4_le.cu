// uint4_le: MRC mode 101. A byte holds two pixels of 4 bits, low bits first.
//
//   byte        0                1
//   bits    p1[3:0] p0[3:0]  p3[3:0] p2[3:0]
//
// So a row is one little-endian number whose bits 4 k ... 4 k + 3 are pixel k, and nothing need be put in order.
// Source: IMOD's description of mode 101. Traffic: half a byte in, the result out.
#include "driver.cuh"

struct uint4_le {
    static constexpr int bits = 4, group_bytes = 1, group_pixels = 2, planes = 1;

    template <int N> static __device__ __forceinline__ void ascend(u32 (&)[N]) {}

    template <int N> static __device__ __forceinline__ u8 unpack(const u32 (&w)[1][N], int i) { return (u8)field<4>(w[0], i); }
};
