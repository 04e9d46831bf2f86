// Steps that undo the filters of compressed chunks, a launch each: LZ4, LZF, bitshuffle (with LZ4 or alone); deflate.cu and
// filters.cu have the others. A launch has a table of tasks: the chunks that the filter was applied to, and where they come from and go.
//
// Streams that consist of blocks (bitshuffle with LZ4, LZ4) are walked first, one thread a chunk, since where a block begins is
// known only from the sizes of those before it; this is done on the device so that bytes need not pass through the host. Then one
// warp takes a block, from a flat list of all: blocks of one frame differ by half their mean, and independent warps do not wait for
// the slowest. A block of bitshuffle is decoded into shared memory (8 KiB a warp) and unshuffled from there in registers.
//
// Bound: the instruction rate. A block of 8 KiB of a counting detector has some 100 sequences of LZ4, nearly all of a few bytes.

#include "inflate.cuh"

// Warps of a thread block; a warp needs no other.
#define WARPS 4
// Bytes of a block that shared memory has room for.
#define SHARED_BLOCK 8192

// Where runs of blocks begin: of each task, in `runs`, the block size (0 for a bad chunk, which then is left alone), the blocks of a
// run, and for each run the byte of its first block's size. Runs have one block, unless blocks are smaller than is usual.
// Bitshuffle: bytes in all (64 bits), bytes of a block (32), then blocks behind their sizes (32), then up to seven elements as they
// are. LZ4: the same without elements at the end. Numbers are big-endian.
template <bool BITS> __device__ __forceinline__ u32 walk_task(const InflateCall &call, const Task &task, u32 *runs, u32 &block)
{
    const u8 *const s = task.src;
    if (task.size < 12) return HEADER;
    if (big32(s) != 0 || big32(s + 4) != call.gives) return TOTAL;
    const u32 size = big32(s + 8), group = 8 * call.item;
    if (size == 0 || (BITS && (size % group != 0 || size > call.block))) return BLOCK_SIZE;
    const u32 whole = BITS ? call.gives - call.gives % group : call.gives;
    const u32 blocks = whole / size + (whole % size != 0), each = blocks / call.per_task + (blocks % call.per_task != 0);
    runs[0] = size, runs[1] = each;
    u32 at = 12, left = 0;
    for (u32 run = 2; block < blocks; ++block) {
        if (left-- == 0) runs[run++] = at, left = each - 1;
        if (task.size - at < 4) return BEYOND;
        const u32 stored = big32(s + at);
        if (stored > task.size - at - 4) return BEYOND;
        at += 4 + stored;
    }
    if (blocks == 0) runs[2] = at;
    return task.size - at == call.gives - whole ? GOOD : LEFT_OVER;
}

template <bool BITS> __global__ void __launch_bounds__(128) walk(const __grid_constant__ InflateCall call)
{
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= call.n) return;
    u32 *const runs = call.runs + (u64)i * (call.per_task + 2), block = 0;
    const bool bad = call.status[call.tasks[i].chunk];
    const u32 rule = bad ? GOOD : walk_task<BITS>(call, call.tasks[i], runs, block);
    if (bad || rule) runs[0] = 0;
    report(call, call.tasks[i], rule, block);
}

// Bitshuffle. ITEM: 1, 2 or 4, or 0 for any. LZ4: blocks are compressed. SHARED: they fit shared memory, which leaves room for six
// thread blocks on an H100: 24 warps of up to 80 registers (items of 4 bytes: five).
template <int ITEM, bool LZ4, bool SHARED>
__global__ void __launch_bounds__(WARPS * WARP, ITEM == 4 ? 5 : 6) bitshuffle(const __grid_constant__ InflateCall call)
{
    __shared__ uint4 memory[SHARED ? WARPS : 1][SHARED ? SHARED_BLOCK / 16 : 1];
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, inverse = inverse_of(lane);
    const u32 id = blockIdx.x * WARPS + warp, i = quotient(id, call.per_task_inverse), run = id - i * call.per_task;
    if (i >= call.n) return;
    const Task task = call.tasks[i];
    const u32 item = ITEM ? ITEM : call.item, whole = call.gives - call.gives % (8 * item);
    const u32 *runs = call.runs + (u64)i * (call.per_task + 2);
    const u32 size = LZ4 ? runs[0] : call.status[task.chunk] ? 0 : call.block, each = LZ4 ? runs[1] : 1;
    if (size == 0) return;
    u64 at = (u64)run * each * size;                                    // first byte of the block, of those that come out
    if (at >= whole && at + run > 0) return;
    const u8 *s = task.src + (LZ4 ? (u64)runs[2 + run] : at);
    u8 *const planes = SHARED ? (u8 *)memory[warp] : call.scratch + i * call.room;
    for (u32 k = run * each; k < run * each + each && at < whole; ++k, at += size) {
        const u32 here = kept(whole - at < size ? (u32)(whole - at) : size);
        u8 *const block = SHARED ? planes : planes + at;
        if (LZ4) {
            const u32 stored = kept(big32(s));
            s += 4;
            const u32 rule = lz4(s, 0, stored, block, 0, here, lane, inverse);
            s += stored;
            if (rule) {
                if (lane == 0) report(call, task, rule, k);
                return;
            }
        } else {
            copy_bytes(block, s, here, lane);
            s += here;
        }
        __syncwarp();
        unshuffle_block<ITEM>(task.dst + at, block, here / item, item, lane);
        __syncwarp();
    }
    if (at >= whole) copy_bytes(task.dst + whole, s, call.gives - whole, lane);
}

// Streams that come out as they are, at the start of a block that a warp is given. LZF is one stream, the chunk; LZ4 has blocks,
// of which those that are stored in as many bytes as come out are not compressed.
template <bool LZF> __global__ void __launch_bounds__(WARPS * WARP, 6) streams(const __grid_constant__ InflateCall call)
{
    const u32 lane = threadIdx.x % WARP, id = blockIdx.x * WARPS + threadIdx.x / WARP, inverse = inverse_of(lane);
    const u32 i = quotient(id, call.per_task_inverse), run = id - i * call.per_task;
    if (i >= call.n) return;
    const Task task = call.tasks[i];
    if constexpr (LZF) {
        if (call.status[task.chunk]) return;
        const u32 rule = lzf(task.src, task.size, task.dst, (u32)((u64)task.dst % 16), call.gives, lane, inverse);
        if (lane == 0) report(call, task, rule, 0);
        return;
    }
    const u32 *runs = call.runs + (u64)i * (call.per_task + 2);
    const u32 size = runs[0], each = runs[1];
    u64 at = (u64)run * each * size;
    if (size == 0 || at >= call.gives) return;
    const u8 *s = task.src + runs[2 + run];
    for (u32 k = run * each; k < run * each + each && at < call.gives; ++k, at += size) {
        const u32 stored = kept(big32(s)), here = kept(call.gives - at < size ? (u32)(call.gives - at) : size);
        u8 *const to = task.dst + at;
        s += 4;
        if (stored == here) {
            copy_bytes(to, s, here, lane);
        } else if (const u32 rule = lz4(s, 0, stored, to, (u32)((u64)to % 16), here, lane, inverse)) {
            if (lane == 0) report(call, task, rule, k);
            return;
        }
        s += stored;
    }
}
