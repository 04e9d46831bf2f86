// The loop that all encodings share: packed bytes in, pixels of the wanted dtype out, dark and gain applied on the way.
//
// Theory. Every detector encoding known to us is a stream of equally wide bit fields, once the bytes of each group stand
// in ascending order. So decoding is: load the window of bytes that holds a few pixels, put its groups in order, shift the
// first wanted pixel down to bit 0, and cut fields at places known to the compiler. Nothing is indexed at run time, so
// everything stays in registers.
//
// Unit of work: a CHUNK, 16 bytes of output that start at a multiple of 16 (fewer where they would need more than 32 bytes
// of input). A thread makes one chunk with one store, neighbouring threads make neighbouring chunks. Chunks are counted
// from the address, not from the run, so stores are whole whatever a frame's size; only the first and last chunk of a run
// may have lanes that belong to others, and are stored lane by lane. Nothing is written twice, nothing else is written.
//
// Loads are of 4, 8 or 16 bytes at multiples of their size, whatever the alignment of the data: a window that starts in
// between takes one load more, and is shifted. Only words that hold a wanted byte are loaded, so that all reads lie in
// [floor16(first wanted byte), ceil16(last wanted byte)). The host sees to it that this is inside of the staging buffer.
//
// Bound: memory. Each packed byte comes from HBM once (threads that share a group find it in L1), each result byte goes
// out once. To find the place of a chunk takes some 115 instructions, to decode it some 55 (u2 to f4, counted in the code
// for sm_90); by its figures, an H200 can issue about 150 while its memory moves the chunk. So a thread makes its chunk in
// up to eight frames one after the other: it finds the place once, and loads the maps, the same for all frames, once.
//
// Grid: x runs over the chunks of a placement, y over placements, z over frames. Threads are numbered chunk first, then
// repeat, then row, so K2IS blocks (16 pixels a row, 16 side by side) still give stores of 512 bytes in a row. A block has
// 256 threads; where a frame has less to do than that, a block holds several frames (threadIdx.y).
//
// Stores are evict-first (__stcs): results are written once and are larger than the L2, where the maps should stay.
//
// No header of the system is included: NVRTC has none. `__grid_constant__`: starts are indexed at run time where they lie,
// in constant memory, instead of being copied to local memory.

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

// A placement, prepared by the host (_launch.py, ENTRY): runs joined where there is no gap, reversed runs counted from
// their lowest pixel. Bytes are relative to the frame's start, pixels are flat indices into the frame.
struct Entry {
    i64 src, row_src, rep_src;                  // bytes
    i64 low, row_low, rep_low;                  // lowest pixel that a run writes
    u64 repeats_inverse, chunks_inverse;        // see quotient()
    i32 pixels, skipped;                        // of a run; `pixels` without the skipped ones
    i32 repeats, chunks;                        // chunks: that a run can touch
    i32 work;                                   // rows * repeats * chunks
    i32 reversed, part, unused;
};

// As many as fit the 4 KiB that a kernel's arguments may have. They lie in constant memory: reading them costs next to
// nothing, and nothing has to be uploaded before a launch or kept until after it.
#define ENTRIES 16
#define STARTS 300

// All arguments of a launch (_launch.py, CALL).
struct Call {
    const u8 *staged;                           // at a multiple of 16
    void *out;                                  // rounded down to a multiple of 16
    const void *dark, *gain;                    // at multiples of 16, readable up to one; null if not used
    i64 lead;                                   // items between `out` and the first frame
    i64 frame_pixels;
    i64 param;                                  // of the encoding
    i32 frames, parts;
    Entry entries[ENTRIES];
    i64 starts[STARTS];                         // [frame][part], bytes
};

template <class T> struct is_real { static const bool value = false; };
template <> struct is_real<f32> { static const bool value = true; };
template <> struct is_real<f64> { static const bool value = true; };

// n / d for n, d < 2^31, where inverse = 2^63 / d + 1: exact, since the error of the inverse adds less than 1 / d.
__device__ __forceinline__ u32 quotient(u32 n, u64 inverse)
{
    return (u32)__umul64hi((u64)n << 1, inverse);
}

// ---- windows: bytes at any address as little-endian words --------------------------------------------------------------

// Shift the number w[0] + 2^32 w[1] + ... right by `bits` < REACH; words shifted in from beyond the end are 0.
template <int REACH, int N> __device__ __forceinline__ void shift_down(u32 (&w)[N], u32 bits)
{
#pragma unroll
    for (int step = 2; step > 0; step /= 2) {
        if (REACH <= 32 * step) continue;
#pragma unroll
        for (int k = 0; k < N; ++k) w[k] = bits & (32 * step) ? (k + step < N ? w[k + step] : 0) : w[k];
    }
#pragma unroll
    for (int k = 0; k < N; ++k) w[k] = __funnelshift_r(w[k], k + 1 < N ? w[k + 1] : 0, bits & 31);
}

template <int UNIT> __device__ __forceinline__ void fetch(u32 *w, const u8 *p)
{
    if constexpr (UNIT == 16) {
        const uint4 v = __ldg((const uint4 *)p);
        w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
    } else if constexpr (UNIT == 8) {
        const uint2 v = __ldg((const uint2 *)p);
        w[0] = v.x, w[1] = v.y;
    } else {
        w[0] = __ldg((const u32 *)p);
    }
}

// The BYTES bytes from `from` on as words; those outside of [low, high), counted from `from`, are not needed and may be
// anything. A load of UNIT bytes is made only where it brings a needed byte.
template <int BYTES, int UNIT, int N> __device__ __forceinline__ void load(u32 (&w)[N], const u8 *from, i32 low, i32 high)
{
    constexpr int units = (BYTES + 2 * UNIT - 2) / UNIT, words = UNIT / 4;
    static_assert(4 * N >= BYTES && N <= units * words, "words of the window");
    const i32 shift = (i32)((u64)from % UNIT);
    u32 raw[units * words] = {};
#pragma unroll
    for (int k = 0; k < units; ++k)
        if ((k + 1) * UNIT > low + shift && k * UNIT < high + shift) fetch<UNIT>(raw + k * words, from - shift + k * UNIT);
    shift_down<8 * UNIT>(raw, 8 * shift);
#pragma unroll
    for (int k = 0; k < N; ++k) w[k] = raw[k];
}

// Field i of the window, BITS wide.
template <int BITS, int N> __device__ __forceinline__ auto field(const u32 (&w)[N], int i)
{
    const int word = i * BITS / 32, bit = i * BITS % 32;
    if constexpr (BITS == 64) return (u64)w[word] | (u64)w[word + 1] << 32;
    else if constexpr (BITS == 32) return w[word];
    else if constexpr (32 % BITS == 0) return w[word] >> bit & ((1u << BITS) - 1);
    else return __funnelshift_r(w[word], word + 1 < N ? w[word + 1] : 0, bit) & ((1u << BITS) - 1);
}

// Reverse the bytes of each group of GROUP = 2, 4 or 8.
template <int GROUP, int N> __device__ __forceinline__ void reverse_groups(u32 (&w)[N])
{
#pragma unroll
    for (int k = 0; k < N; ++k) w[k] = __byte_perm(w[k], 0, GROUP == 2 ? 0x2301 : 0x0123);
#pragma unroll
    for (int k = 0; GROUP == 8 && k + 1 < N; k += 2) {
        const u32 high = w[k];
        w[k] = w[k + 1], w[k + 1] = high;
    }
}

template <class T, class Bits> __device__ __forceinline__ T bits_as(Bits v)
{
    if constexpr (!is_real<T>::value) return (T)v;
    else if constexpr (sizeof(T) == 4) return __uint_as_float(v);
    else return __longlong_as_double((i64)v);
}

// ---- pixels: conversion, dark, gain, store -----------------------------------------------------------------------------

// As NumPy's astype: integers wrap, reals are truncated towards zero; what a real out of range gives is left open there.
template <class To, class From> __device__ __forceinline__ To cast(From v)
{
    if constexpr (!is_real<From>::value || is_real<To>::value) return (To)v;
    else if constexpr (sizeof(To) < 4) return (To)(i32)v;
    else if constexpr (sizeof(To) == 4) return (To)(i64)v;
    else return (To)v;
}

// (v - dark) * gain as if in float64 and rounded once. A single operation on float32 gives the same bits in float32.
template <int MAPS, class Out, class Map> __device__ __forceinline__ Out corrected(Out v, Map dark, Map gain)
{
    if constexpr (sizeof(Out) == 4 && sizeof(Map) == 4 && MAPS < 3) {
        return MAPS == 1 ? v - dark : v * gain;
    } else {
        f64 r = v;
        if (MAPS & 1) r -= dark;
        if (MAPS & 2) r *= gain;
        return (Out)r;
    }
}

template <class T, int N> union Lanes {
    T lane[N];
    uint4 four[sizeof(T) * N / 16 + 1];
    uint2 two;
    u32 one;
};

template <class T, int N> __device__ __forceinline__ void store(T *to, const Lanes<T, N> &v, i32 low, i32 high)
{
    if (low == 0 && high == N) {
        if constexpr (sizeof(T) * N == 16) __stcs((uint4 *)to, v.four[0]);
        else if constexpr (sizeof(T) * N == 8) __stcs((uint2 *)to, v.two);
        else __stcs((u32 *)to, v.one);
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i)
            if (i >= low && i < high) __stcs(to + i, v.lane[i]);
    }
}

// Lanes [low, high) of the map at pixel `at` of the frame.
template <class Map, int N> __device__ __forceinline__ void load_map(Map (&v)[N], const void *map, i64 at, i32 low, i32 high)
{
    constexpr int bytes = N * sizeof(Map);
    u32 w[bytes / 4];
    load<bytes, (bytes < 16 ? bytes : 16)>(w, (const u8 *)map + at * (i64)sizeof(Map), low * (i32)sizeof(Map), high * (i32)sizeof(Map));
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = bits_as<Map>(field<8 * sizeof(Map)>(w, i));
}

// ---- the loop ----------------------------------------------------------------------------------------------------------

// How chunks of encoding E become items of type Out; all of it known to the compiler.
template <class E, class Out> struct Shape {
    static constexpr int fit = 16 / sizeof(Out), most = 32 * 8 / E::bits;
    static constexpr int lanes = fit < most ? fit : most;
    static constexpr int groups = (lanes + 2 * E::group_pixels - 2) / E::group_pixels;     // that a chunk may touch
    static constexpr int bytes = groups * E::group_bytes, words = (bytes + 3) / 4;
    static constexpr int useful = lanes * E::bits / 8 < E::group_bytes ? E::group_bytes : lanes * E::bits / 8;
    static constexpr int unit = useful <= 4 ? 4 : useful < 16 ? 8 : 16;
};

// MAPS: 0 none, 1 dark, 2 gain, 3 both. Map: f32 or f64.
template <class E, class Out, class Map, int MAPS>
__global__ void __launch_bounds__(256) decode(const __grid_constant__ Call call)
{
    typedef Shape<E, Out> S;
    constexpr int LANES = S::lanes;
    const Entry &e = call.entries[blockIdx.y];
    const u32 work = blockIdx.x * blockDim.x + threadIdx.x;
    i32 frame = (i32)(blockIdx.z * blockDim.y + threadIdx.y);
    if (work >= (u32)e.work || frame >= call.frames) return;
    const u32 run = quotient(work, e.chunks_inverse), chunk = work - run * (u32)e.chunks;
    const u32 row = quotient(run, e.repeats_inverse), repeat = run - row * (u32)e.repeats;

    // The chunk's lanes: lane 0 is pixel `first` of the run, counted from the lowest; lanes [low, high) are the run's own.
    const i64 pixel = e.low + row * e.row_low + repeat * e.rep_low;
    const i64 item = call.lead + frame * call.frame_pixels + pixel;
    const i32 first = (i32)(chunk * LANES) - (i32)(item & (LANES - 1)), pixels = e.pixels;
    const i32 low = first < 0 ? -first : 0, high = pixels - first < LANES ? pixels - first : LANES;
    if (low >= high) return;
    Out *to = (Out *)call.out + (item + first);

    // The same in storage order: x counts from the run's first group, `within` from the chunk's first group.
    const bool reversed = e.reversed;
    const i32 x = e.skipped + (reversed ? pixels - LANES - first : first);
    const i32 group = x >= 0 ? x / E::group_pixels : -((E::group_pixels - 1 - x) / E::group_pixels);
    const i32 within = x - group * E::group_pixels;
    const i32 x_low = within + (reversed ? LANES - high : low), x_high = within + (reversed ? LANES - low : high);
    const i32 byte_low = x_low / E::group_pixels * E::group_bytes, byte_high = ((x_high - 1) / E::group_pixels + 1) * E::group_bytes;
    const u8 *from = call.staged + (e.src + row * e.row_src + repeat * e.rep_src + (i64)group * E::group_bytes);

    Map dark[LANES], gain[LANES];
    if constexpr ((MAPS & 1) != 0) load_map(dark, call.dark, pixel + first, low, high);
    if constexpr ((MAPS & 2) != 0) load_map(gain, call.gain, pixel + first, low, high);

    const i32 step = (i32)(gridDim.z * blockDim.y);
    for (; frame < call.frames; frame += step, to += step * call.frame_pixels) {
        const u8 *at = from + call.starts[frame * call.parts + e.part];
        u32 w[E::planes][S::words];
#pragma unroll
        for (int plane = 0; plane < E::planes; ++plane) {
            load<S::bytes, S::unit>(w[plane], at + plane * call.param, byte_low, byte_high);
            E::ascend(w[plane]);
            if constexpr (E::group_pixels > 1) shift_down<(E::group_pixels - 1) * E::bits + 1>(w[plane], within * E::bits);
        }
        Lanes<Out, LANES> v;
#pragma unroll
        for (int i = 0; i < LANES; ++i) v.lane[i] = cast<Out>(E::unpack(w, i));
        if (reversed) {
#pragma unroll
            for (int i = 0; i < LANES / 2; ++i) {
                const Out other = v.lane[i];
                v.lane[i] = v.lane[LANES - 1 - i], v.lane[LANES - 1 - i] = other;
            }
        }
        if constexpr (MAPS != 0) {
#pragma unroll
            for (int i = 0; i < LANES; ++i) v.lane[i] = corrected<MAPS>(v.lane[i], dark[i], gain[i]);
        }
        store(to, v, low, high);
    }
}
