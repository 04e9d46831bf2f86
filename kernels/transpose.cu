// Frames of an array that is stored with navigation fastest: neighbours in memory are the same pixel of neighbouring frames.
// Items are moved as they are; decoding follows, from the frames that are made here.
//
// A tile of 32 frames and 32 pixels goes through shared memory. It is loaded with the lanes of a warp along navigation and
// stored with them along the pixels of a frame, so both ways a warp moves one run of 32 items. The host sorts frames by where
// they lie; those of a selection are found through a table, so they may be any, go anywhere and repeat.
//
// A row of the tile is 32 items and a word (or an item, if that is larger) long: 9, 17, 33, 66 or 132 words for items of 1, 2,
// 4, 8 or 16 bytes. The lanes that the memory serves together (32, or 16 and 8 for items of 8 and 16 bytes) then find the items
// of a column in different banks.
//
// Bound: the link to the host, at some 60 GB/s. A tile of bytes, the least favourable, takes a warp four instructions for 32
// bytes loaded and as many stored; an H100 issues those for more than 1 TB/s. So lanes move single items, and nothing is
// gained by packing small ones into words.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

#define SIDE 32

// All arguments of a launch (_transpose.py, CALL). Distances in items.
struct TransposeCall {
    const void *staged;
    void *out;
    const i64 *starts, *frames;                 // of each frame: its first item in a run, its number in the output
    i64 n, frame_pixels;
    i64 src, row_src, rep_src;
    i64 pos, row_pos, rep_pos;
    i64 repeats, pixels;                        // of a row, of the piece
};

template <class T> __global__ void __launch_bounds__(256) transpose(const __grid_constant__ TransposeCall call)
{
    __shared__ T tile[SIDE][SIDE + (sizeof(T) < 4 ? 4 / sizeof(T) : 1)];
    const T *staged = (const T *)call.staged + call.src;
    T *out = (T *)call.out + call.pos;
    const i64 corner = (i64)blockIdx.x * SIDE;                  // first pixel of the tile
    const i64 mine = corner + threadIdx.x;                      // the one this lane stores
    const i64 pos = mine / call.repeats * call.row_pos + mine % call.repeats * call.rep_pos;
    for (i64 first = (i64)blockIdx.y * SIDE; first < call.n; first += (i64)gridDim.y * SIDE) {
        if (first + threadIdx.x < call.n) {
            const i64 start = call.starts[first + threadIdx.x];
            for (u32 j = threadIdx.y; j < SIDE && corner + j < call.pixels; j += blockDim.y) {
                const i64 pixel = corner + j;
                tile[j][threadIdx.x] = __ldg(staged + start + pixel / call.repeats * call.row_src + pixel % call.repeats * call.rep_src);
            }
        }
        __syncthreads();
        if (mine < call.pixels)
            for (u32 j = threadIdx.y; j < SIDE && first + j < call.n; j += blockDim.y)
                out[call.frames[first + j] * call.frame_pixels + pos] = tile[threadIdx.x][j];
        __syncthreads();
    }
}
