// Entries of sparse frames added to dense ones, each a pixel number and a value.
//
// A block takes a frame, and each of its threads the pixels whose number ends in the thread's. Every thread walks through all
// entries of the frame and adds those of its pixels, so entries of one pixel are added by one thread in the order in which they are
// stored: the sums are those of the CPU bit for bit, without atomics and without knowing whether entries are sorted or repeated.
//
// Bound: the link to the host, at some 60 GB/s, with 6 bytes an entry at least. A warp reads an entry with one broadcast load
// and takes some six instructions for it, the eight warps of a block about fifty. An H100 issues 10^12 a second: 20 * 10^9 entries
// a second, twice as many as arrive.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
typedef float f32;
typedef double f64;

struct b8 { u8 v; };            // a truth value
static __device__ __forceinline__ b8 operator+(b8 a, b8 b) { return b8{(u8)(a.v | (b.v != 0))}; }

// All arguments of a launch (_scatter.py, CALL).
struct ScatterCall {
    const void *pixels, *values;
    void *out;
    const i64 *starts;                  // of each frame, among the entries; one more than there are frames
    i64 frames, count, frame_pixels;
    i64 items;                          // of a value: 2 if it is complex
};

template <class I, class T> __global__ void __launch_bounds__(256) scatter(const __grid_constant__ ScatterCall call)
{
    const I *pixels = (const I *)call.pixels;
    const T *values = (const T *)call.values;
    for (i64 frame = blockIdx.x; frame < call.frames; frame += gridDim.x) {
        T *out = (T *)call.out + frame * call.frame_pixels * call.items;
        const i64 first = call.starts[frame] > 0 ? call.starts[frame] : 0;
        const i64 stop = call.starts[frame + 1] < call.count ? call.starts[frame + 1] : call.count;
        for (i64 i = first; i < stop; ++i) {
            const u64 pixel = pixels[i];
            if ((pixel & (blockDim.x - 1)) == threadIdx.x && pixel < (u64)call.frame_pixels)
                for (i64 k = 0; k < call.items; ++k)
                    out[pixel * call.items + k] = out[pixel * call.items + k] + values[i * call.items + k];
        }
    }
}
