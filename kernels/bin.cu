// Sums over blocks of pixels: one thread a pixel of the result, so a warp loads runs of a row that lie side by side and stores one run.
// Integers are summed exactly; floating pixels in float64, in C order of the block, and rounded once: the same operations as on the CPU.
//
// Bound: the decoded pixels once in (from the L2, where decoding has just put them) and the result once out. A row of a block is read
// by one lane, so a request of a warp covers 32 x across pixels that are all used, over `across` loads that hit the L1.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long long i64;
typedef float f32;
typedef double f64;

// All arguments of a launch (_bin.py, CALL).
struct BinCall {
    const void *pixels;
    void *out;
    i64 rows, columns;                           // of the result, all planes below each other
    i64 down, across;                            // of a block
};

// Pixels of S, summed in A, stored as T.
template <class S, class A, class T> __global__ void __launch_bounds__(256) bin(const __grid_constant__ BinCall call)
{
    const i64 x = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (x >= call.columns) return;
    const i64 width = call.columns * call.across;
    for (i64 y = (i64)blockIdx.y * blockDim.y + threadIdx.y; y < call.rows; y += (i64)gridDim.y * blockDim.y) {
        const S *from = (const S *)call.pixels + y * call.down * width + x * call.across;
        A sum = 0;
        for (i64 dy = 0; dy < call.down; ++dy, from += width)
#pragma unroll 4
            for (i64 dx = 0; dx < call.across; ++dx) sum += (A)__ldg(from + dx);
        ((T *)call.out)[y * call.columns + x] = (T)sum;
    }
}
