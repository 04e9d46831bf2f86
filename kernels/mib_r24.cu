// mib_r24: Merlin RAW, counter depth 24. A frame is two images as in mib_r12: the high 12 bits of all pixels, then, `param`
// bytes later, the low 12 bits. Values are not masked, so words above 4095 carry over: pixel = high * 4096 + low.
//
//   high image  byte   0 1 | 2 3 | 4 5 | 6 7        low image  the same, at + param
//               pixel   3  |  2  |  1  |  0
//
// Traffic: 4 bytes in, the result out.
#include "driver.cuh"

struct mib_r24 {
    static constexpr int bits = 16, group_bytes = 8, group_pixels = 4, planes = 2;

    template <int N> static __device__ __forceinline__ void ascend(u32 (&w)[N]) { reverse_groups<8>(w); }

    template <int N> static __device__ __forceinline__ u32 unpack(const u32 (&w)[2][N], int i)
    {
        return (field<16>(w[0], i) << 12) + field<16>(w[1], i);
    }
};
