// Filters that change no sizes, and the move of chunks that no filter was applied to. The first lines of inflate.cu say how a step
// is launched.
//
// Bound: memory. A thread makes 16 bytes; those of a byte plane that a warp needs lie side by side, so its loads share sectors.

#include "inflate.cuh"

// The 16 bytes that this thread makes, of one task: false if there is nothing to do.
__device__ __forceinline__ bool my_bytes(const InflateCall &call, Task &task, u32 &first, u32 &n)
{
    const u32 i = quotient(blockIdx.x, call.per_task_inverse), part = blockIdx.x - i * call.per_task;
    const u64 at = ((u64)part * blockDim.x + threadIdx.x) * 16;
    if (i >= call.n || at >= call.gives || call.status[call.tasks[i].chunk]) return false;
    task = call.tasks[i], first = (u32)at, n = call.gives - first < 16 ? call.gives - first : 16;
    return true;
}

// Byte planes to elements. Bytes behind the last whole element stay where they are. ITEM: 2, 4 or 8, or 0 for any.
template <int ITEM> __global__ void __launch_bounds__(256) unshuffle(const __grid_constant__ InflateCall call)
{
    Task task;
    u32 first, n;
    if (!my_bytes(call, task, first, n)) return;
    const u32 item = ITEM ? ITEM : call.item, elements = call.gives / item, whole = elements * item;
    if (ITEM && n == 16 && first + 16 <= whole && (u64)(task.dst + first) % 16 == 0) {
        u32 w[4] = {};
        const u8 *const from = task.src + first / item;
#pragma unroll
        for (int b = 0; b < 16; ++b) w[b / 4] |= (u32)__ldg(from + (u64)(b % item) * elements + b / item) << 8 * (b % 4);
        __stwb((uint4 *)(task.dst + first), make_uint4(w[0], w[1], w[2], w[3]));
        return;
    }
    for (u32 p = first; p < first + n; ++p) task.dst[p] = __ldg(task.src + (p < whole ? (u64)(p % item) * elements + p / item : p));
}

// Chunks as they are.
__global__ void __launch_bounds__(256) move(const __grid_constant__ InflateCall call)
{
    Task task;
    u32 first, n;
    if (!my_bytes(call, task, first, n)) return;
    if (n == 16 && (u64)(task.src + first) % 16 == 0 && (u64)(task.dst + first) % 16 == 0)
        __stwb((uint4 *)(task.dst + first), __ldg((const uint4 *)(task.src + first)));
    else
        for (u32 p = first; p < first + n; ++p) task.dst[p] = __ldg(task.src + p);
}

// Two numbers added so that the sum keeps its remainder of 65535, and is 0 only if both are: 2^32 has the remainder 1.
__device__ __forceinline__ u64 added(u64 sum, u64 other)
{
    sum += other;
    return (sum & 0xffffffff) + (sum >> 32);
}

// The sum of all lanes in 16 bits; what is not 0 never becomes 0.
__device__ __forceinline__ u32 total(u64 sum)
{
    for (int distance = WARP / 2; distance; distance /= 2) sum = added(sum, __shfl_sync(ALL, sum, (threadIdx.x ^ distance) % WARP));
    for (int k = 0; k < 4; ++k) sum = (sum & 0xffff) + (sum >> 16);
    return (u32)sum;
}

// Checks the Fletcher-32 sum that follows the bytes of a task. One warp a chunk. A word of 16 bits, highest byte first, counts once in
// the low sum, and in the high one as often as there are words from it to the end. HDF5 takes sums with swapped bytes, too.
__global__ void __launch_bounds__(WARP) fletcher32(const __grid_constant__ InflateCall call)
{
    const Task task = call.tasks[blockIdx.x];
    if (call.status[task.chunk]) return;
    const u32 size = task.size, words = size / 2 + size % 2;
    u64 low = 0, high = 0;
    for (u32 i = threadIdx.x; i < words; i += WARP) {
        const u64 word = (u32)__ldg(task.src + 2ull * i) << 8 | (2ull * i + 1 < size ? __ldg(task.src + 2ull * i + 1) : 0);
        low = added(low, word), high = added(high, word * (words - i));
    }
    const u32 found = total(high) << 16 | total(low), swapped = __byte_perm(found, 0, 0x2301);
    const u8 *const p = task.src + size;
    const u32 stored = __ldg(p) | (u32)__ldg(p + 1) << 8 | (u32)__ldg(p + 2) << 16 | (u32)__ldg(p + 3) << 24;
    if (threadIdx.x == 0) report(call, task, stored == found || stored == swapped ? GOOD : CHECKSUM, 0);
}
