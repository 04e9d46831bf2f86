// Repair of excluded pixels: each becomes the mean of its neighbours. Those are never excluded themselves, so order and
// concurrency do not matter. One thread a pixel and frame (and half of a complex number), in a small launch after the
// decoding one. The sum is made in float64 in the order of the table, divided, and rounded once: the same operations as
// on the CPU. Traffic: a sector of 32 bytes for each neighbour and pixel, nothing beside the decoding.

typedef long long i64;
typedef float f32;
typedef double f64;

// All arguments of a launch (_launch.py, REPAIR_CALL).
struct RepairCall {
    void *out;
    const i64 *pixels, *starts, *neighbours;
    i64 n, frames, frame_pixels;
    i64 items;                                  // of type T that make up a pixel: 2 for complex numbers
};

template <class T> __global__ void __launch_bounds__(256) repair(const __grid_constant__ RepairCall call)
{
    const i64 work = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    const i64 i = work / call.items, item = work % call.items;
    if (i >= call.n) return;
    const i64 begin = call.starts[i], end = call.starts[i + 1];
    if (begin == end) return;
    for (i64 frame = blockIdx.y * blockDim.y + threadIdx.y; frame < call.frames; frame += (i64)gridDim.y * blockDim.y) {
        T *out = (T *)call.out + frame * call.frame_pixels * call.items + item;
        f64 sum = 0;
#pragma unroll 1
        for (i64 k = begin; k < end; ++k) sum += out[call.neighbours[k] * call.items];
        out[call.pixels[i] * call.items] = (T)(sum / (f64)(end - begin));
    }
}
