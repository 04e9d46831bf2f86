// Compressed chunks on the device: what the kernels of inflate.cu, deflate.cu and filters.cu share. Rules and order of steps: gpuio/inflation.py.
//
// Streams are untrusted. Nothing is read outside of a chunk's stored bytes, nothing is written outside of what it becomes, and
// every loop ends with the input. A chunk that breaks a rule gets a status; of its blocks, the first bad one is named.
//
// A warp decodes a stream: tokens and lengths are read by all lanes from the same address, so its branches are uniform, and
// lanes share the copying. LZ4 is serial within a block; blocks are what runs side by side.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;

#define WARP 32
#define ALL 0xffffffffu

// As gpuio.inflation.Rule.
enum Rule { GOOD, HEADER, TOTAL, BLOCK_SIZE, BEYOND, LEFT_OVER, INPUT, OUTPUT, DISTANCE, SHORT, CHECKSUM, STORED, DEFLATE };
// As gpuio.inflation.status.
#define RULE_BITS 5
#define LAST_BLOCK ((1u << (31 - RULE_BITS)) - 1)

// One chunk in one step (_inflate.py, TASK).
struct Task {
    const u8 *src;
    u8 *dst;
    u32 size;                                   // bytes at src
    u32 chunk;                                  // whose status this is
};

// All arguments of a launch (_inflate.py, CALL).
struct InflateCall {
    const Task *tasks;
    i32 *status;                                // of each chunk, 0 in the beginning
    u32 *runs;                                  // of each task: see walk()
    u8 *scratch;                                // of each task, `room` bytes: blocks that do not fit shared memory
    i64 room;
    u64 per_task_inverse;                       // see quotient()
    u32 n, per_task;                            // tasks; warps, threads or parts of each
    u32 gives, item, block;                     // as in gpuio.inflation.Step
    u32 unused;
};

// n / d for n, d < 2^31, where inverse = 2^63 / d + 1, as in driver.cuh.
__device__ __forceinline__ u32 quotient(u32 n, u64 inverse)
{
    return (u32)__umul64hi((u64)n << 1, inverse);
}

// The largest status stays: that of the first bad block.
__device__ __forceinline__ void report(const InflateCall &call, const Task &task, u32 rule, u32 block)
{
    if (rule) atomicMax(call.status + task.chunk, (i32)((LAST_BLOCK - (block < LAST_BLOCK ? block : LAST_BLOCK)) << RULE_BITS | rule));
}

__device__ __forceinline__ u32 big32(const u8 *p)
{
    return (u32)__ldg(p) << 24 | (u32)__ldg(p + 1) << 16 | (u32)__ldg(p + 2) << 8 | __ldg(p + 3);
}

// Copy n bytes, a warp together.
__device__ __forceinline__ void copy_bytes(u8 *to, const u8 *from, u32 n, u32 lane)
{
    if (lane < n) to[lane] = __ldg(from + lane);
#pragma unroll 1
    for (u32 i = lane + WARP; i < n; i += WARP) to[i] = __ldg(from + i);
}

// What lane 0 has, in all lanes. The compiler then keeps it, instead of computing it anew wherever it is used.
__device__ __forceinline__ u32 kept(u32 value)
{
    return __shfl_sync(ALL, value, 0);
}

// n bytes of the same value from out[d] on, in pieces of 16 where they lie at multiples of 16 in memory.
__device__ __forceinline__ void fill(u8 *out, u32 skew, u32 d, u32 n, u8 value, u32 lane)
{
    const u32 word = value * 0x01010101u, end = d + n, first = d + ((0u - (skew + d)) & 15), last = end - ((skew + end) & 15);
    for (u32 i = d + lane; i < (first < end ? first : end); i += WARP) out[i] = value;
    for (u32 i = first + 16 * lane; i + 16 <= last && i < last; i += 16 * WARP) *(uint4 *)(out + i) = make_uint4(word, word, word, word);
    for (u32 i = (last > first ? last : first) + lane; i < end; i += WARP) out[i] = value;
}

// What lane i has for copy_match(): 2^16 / i + 1, whose product with a number below 32 has its quotient by i in the high bits.
__device__ __forceinline__ u32 inverse_of(u32 lane)
{
    return lane ? 65536 / lane + 1 : 0;
}

// A match: n bytes from out[d] on repeat the `distance` bytes before them. Lanes wait for each other before they read.
__device__ __forceinline__ void copy_match(u8 *out, u32 skew, u32 d, u32 distance, u32 n, u32 lane, u32 inverse)
{
    // Of a distance below 32 each lane holds one byte: lane modulo distance.
    const u32 one_over = __shfl_sync(ALL, inverse, distance % WARP);
    const u32 source = lane - distance * (lane * (distance < WARP ? one_over : 0) >> 16);
    const u8 *const from = out + d - distance;
    __syncwarp();
    if (n <= WARP) {
        if (lane < n) out[d + lane] = from[source];
        return;
    }
    if (distance >= WARP) {
        for (u32 i = 0; i < n; i += WARP) {
            if (i + lane < n) out[d + i + lane] = from[i + lane];
            __syncwarp();
        }
        return;
    }
    const u8 value = from[source];
    if (__all_sync(ALL, value == (u8)__shfl_sync(ALL, (u32)value, 0))) {
        fill(out, skew, d, n, value, lane);
        return;
    }
    const u32 step = __shfl_sync(ALL, source, WARP - 1) + 1;            // 32 modulo distance, or the distance
    for (u32 i = 0, from_lane = source; i < n; i += WARP) {
        const u8 next = (u8)__shfl_sync(ALL, (u32)value, from_lane);
        if (i + lane < n) out[d + i + lane] = next;
        from_lane += step, from_lane -= from_lane >= distance ? distance : 0;
    }
}

// A length beyond 15: bytes are added up to the first that is below 255. The largest number if the input ends.
__device__ __forceinline__ u32 extended(u32 length, const u8 *s, u32 &at, u32 end)
{
    u32 more;
    do {
        if (at >= end) return ~0u;
        more = __ldg(s + at++), length += length < 0xffffff00 ? more : 0;
    } while (more == 255);
    return length;
}

// An LZ4 block, s[at] to s[end], into `gives` bytes at `out`, which lies `skew` bytes behind a multiple of 16. Returns the rule broken.
// `inverse`: see inverse_of(). Rules are looked at in pairs, and told apart only when one is broken.
__device__ __forceinline__ u32 lz4(const u8 *s, u32 at, u32 end, u8 *out, u32 skew, u32 gives, u32 lane, u32 inverse)
{
    u32 d = 0;
    while (at < end) {
        const u32 token = __ldg(s + at++);
        u32 n = token >> 4;
        if (n == 15) n = extended(n, s, at, end);
        if (n > end - at || n > gives - d) return n > end - at ? INPUT : OUTPUT;
        copy_bytes(out + d, s + at, n, lane);
        at += n, d += n;
        if (end - at < 2) return at < end ? INPUT : d == gives ? GOOD : SHORT;
        const u8 *const pair = s + at;
        const u32 distance = __ldg(pair) | (u32)__ldg(pair + 1) << 8;
        at += 2, n = (token & 15) + 4;
        if (n == 19 && (n = extended(n, s, at, end)) == ~0u) return INPUT;
        if (distance - 1 >= d || n > gives - d) return distance - 1 >= d ? DISTANCE : OUTPUT;    // distance 0 wraps to the largest
        copy_match(out, skew, d, distance, n, lane, inverse);
        d += n;
    }
    return INPUT;
}

// A bare LZF stream of `end` bytes; parameters as of lz4().
__device__ __forceinline__ u32 lzf(const u8 *s, u32 end, u8 *out, u32 skew, u32 gives, u32 lane, u32 inverse)
{
    u32 at = 0, d = 0;
    while (at < end) {
        const u32 control = __ldg(s + at++);
        u32 n = control + 1;
        if (control < 32) {
            if (n > end - at) return INPUT;
            if (n > gives - d) return OUTPUT;
            copy_bytes(out + d, s + at, n, lane);
            at += n;
        } else {
            n = (control >> 5) + 2;
            if (end - at < (n == 9 ? 2 : 1)) return INPUT;
            if (n == 9) n += __ldg(s + at++);
            const u32 distance = ((control & 31) << 8) + __ldg(s + at++) + 1;
            if (distance > d) return DISTANCE;
            if (n > gives - d) return OUTPUT;
            copy_match(out, skew, d, distance, n, lane, inverse);
        }
        d += n;
    }
    return d == gives ? GOOD : SHORT;
}

// ---- bits ---------------------------------------------------------------------------------------------------------------

// Bit e of word j becomes bit j of word e, in each group of N bits: N x N matrices of bits, 32 / N of them side by side.
template <int N> __device__ __forceinline__ void transpose_bits(u32 (&w)[N])
{
#pragma unroll
    for (int distance = N / 2; distance; distance /= 2) {
        const u32 mask = 0xffffffffu / ((1ull << distance) + 1);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            if (i & distance) continue;
            const u32 moved = (w[i] >> distance ^ w[i + distance]) & mask;
            w[i + distance] ^= moved, w[i] ^= moved << distance;
        }
    }
}

// 32 elements, one word from each of N planes, as they lie in memory: N words.
template <int N> __device__ __forceinline__ void unite(u32 (&out)[N], u32 (&w)[N])
{
    transpose_bits(w);
#pragma unroll
    for (int i = 0; i < N; ++i) {
        if constexpr (N == 32) {
            out[i] = w[i];
        } else if constexpr (N == 16) {                                 // halves: elements i and 16 + i
            out[i] = __byte_perm(w[2 * i % 16], w[2 * i % 16 + 1], i < 8 ? 0x5410 : 0x7632);
        } else {                                                        // bytes: elements i, 8 + i, 16 + i and 24 + i
            const u32 pick = i / 2 | (4 + i / 2) << 4;
            const int e = i % 2 * 4;
            out[i] = __byte_perm(__byte_perm(w[e], w[e + 1], pick), __byte_perm(w[e + 2], w[e + 3], pick), 0x5410);
        }
    }
}

// A block of bit planes: `elements`, a multiple of 8, of `item` bytes, from `planes`, a multiple of 4 in memory, to `to`. A warp
// together. ITEM: 1, 2 or 4, or 0 for any.
template <int ITEM> __device__ __forceinline__ void unshuffle_block(u8 *to, const u8 *planes, u32 elements, u32 item, u32 lane)
{
    const u32 pitch = elements / 8;
    if constexpr (ITEM != 0) {
        if (pitch % 4 == 0 && (u64)to % 16 == 0) {
#pragma unroll 1
            for (u32 g = lane; g < elements / 32; g += WARP) {
                u32 w[8 * ITEM], out[8 * ITEM];
                const u8 *plane = planes + 4 * g;
#pragma unroll
                for (int j = 0; j < 8 * ITEM; ++j, plane += pitch) w[j] = *(const u32 *)plane;
                unite(out, w);
#pragma unroll
                for (int i = 0; i < 2 * ITEM; ++i)
                    __stwb((uint4 *)(to + 32 * ITEM * g + 16 * i), make_uint4(out[4 * i], out[4 * i + 1], out[4 * i + 2], out[4 * i + 3]));
            }
            return;
        }
    } else if (item % 2 == 0 && pitch % 4 == 0 && (u64)to % 2 == 0) {
#pragma unroll 1
        for (u32 g = lane; g < elements / 32; g += WARP)
#pragma unroll 1
            for (u32 k = 0; k < item; k += 2) {                         // two bytes of an element at a time, to stay in registers
                u32 w[16];
                const u8 *plane = planes + (u64)(8 * k) * pitch + 4 * g;
#pragma unroll
                for (int j = 0; j < 16; ++j, plane += pitch) w[j] = *(const u32 *)plane;
                transpose_bits(w);
                u8 *const first = to + (u64)(32 * g) * item + k;
#pragma unroll
                for (int e = 0; e < 32; ++e) __stwb((u16 *)(first + (u64)e * item), (u16)(w[e % 16] >> e / 16 * 16));
            }
        return;
    }
#pragma unroll 1
    for (u32 g = lane; g < pitch; g += WARP)                            // eight elements, byte by byte
#pragma unroll 1
        for (u32 k = 0; k < item; ++k) {
            u32 w[8];
#pragma unroll
            for (int j = 0; j < 8; ++j) w[j] = planes[(u64)(8 * k + j) * pitch + g];
            transpose_bits(w);
#pragma unroll
            for (int e = 0; e < 8; ++e) to[(u64)(8 * g + e) * item + k] = (u8)w[e];
        }
}
