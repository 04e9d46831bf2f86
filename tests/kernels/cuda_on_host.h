// Lets g++ compile the CUDA kernels unchanged: g++ -std=c++17 -include cuda_on_host.h. Threads of a block run one after
// another; with -DSHIM_BARRIERS each has a stack of its own, and runs from one barrier (__syncthreads, or that of a warp) to the
// next before it is the next one's turn. Nothing happens at the same time, but whatever a missing barrier lets happen too early does.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <unordered_set>
#ifdef SHIM_BARRIERS
#include <csetjmp>
#include <memory>
#include <ucontext.h>
#include <vector>
#endif

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static

struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };
static thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector)
{
    const unsigned long long bytes = (unsigned long long)b << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; ++i) r |= (unsigned)(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return r;
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned bits)
{
    return (unsigned)(((unsigned long long)high << 32 | low) >> (bits & 31));
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline unsigned __brev(unsigned v)
{
    unsigned r = 0;
    for (int i = 0; i < 32; ++i) r |= (v >> i & 1) << (31 - i);
    return r;
}
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __ffs(unsigned v) { return __builtin_ffs((int)v); }
static inline int atomicMax(int *p, int v) { const int old = *p; return *p = v > old ? v : old, old; }
static inline float __uint_as_float(unsigned v) { float r; std::memcpy(&r, &v, 4); return r; }
static inline double __longlong_as_double(long long v) { double r; std::memcpy(&r, &v, 8); return r; }

// Traffic, for the tests that count it: bytes that a launch loads (each once: the L2 keeps them), the same with each once a
// block (threads of a block share the L1), and bytes stored, counted as often as they are.
#ifdef COUNT_BYTES
static std::unordered_set<std::uintptr_t> shim_block_loads, shim_launch_loads;
static unsigned long long shim_counts[3];
static void shim_count_load(const void *p, std::size_t n) { while (n--) shim_block_loads.insert((std::uintptr_t)p + n); }
static void shim_end_block()
{
    shim_launch_loads.insert(shim_block_loads.begin(), shim_block_loads.end());
    shim_counts[1] += shim_block_loads.size();
    shim_block_loads.clear();
}
static void shim_end_launch() { shim_counts[0] += shim_launch_loads.size(); shim_launch_loads.clear(); }
extern "C" void shim_traffic(unsigned long long *out) { for (auto &n : shim_counts) *out++ = n, n = 0; }
#else
static inline void shim_end_block() {}
static inline void shim_end_launch() {}
#endif

// A device refuses what does not lie at a multiple of its size; this machine would not notice.
static unsigned long long shim_misaligned_accesses;
extern "C" unsigned long long shim_misaligned() { return shim_misaligned_accesses; }

template <class T> static inline T __ldg(const T *p)
{
    shim_misaligned_accesses += (std::uintptr_t)p % sizeof(T) != 0;
#ifdef COUNT_BYTES
    shim_count_load(p, sizeof(T));
#endif
    return *p;
}
template <class T> static inline void __stcs(T *p, T v)
{
    shim_misaligned_accesses += (std::uintptr_t)p % sizeof(T) != 0;
#ifdef COUNT_BYTES
    shim_counts[2] += sizeof(T);
#endif
    *p = v;
}
template <class T> static inline void __stwb(T *p, T v) { __stcs(p, v); }

// Barriers. In each round every thread runs up to its next barrier or to its end; all must come to the same.
static unsigned long long shim_missed_barriers;
extern "C" unsigned long long shim_missed() { return shim_missed_barriers; }
#ifdef SHIM_BARRIERS
enum ShimWait { SHIM_RUNS, SHIM_WARP, SHIM_BLOCK, SHIM_DONE };
// A stack and where it is left. Jumps change stacks without a call of the system; the sanitizer follows only swapcontext.
struct ShimContext {
    ucontext_t context;
    bool was_left = false;
#ifdef __SANITIZE_ADDRESS__
    void go_to(ShimContext &other) { swapcontext(&context, &other.context); }
#else
    jmp_buf left;
    void go_to(ShimContext &other)
    {
        was_left = true;
        if (_setjmp(left)) return;
        if (other.was_left) _longjmp(other.left, 1);
        setcontext(&other.context);
    }
#endif
};
struct ShimFiber : ShimContext {
    dim3 index;
    ShimWait waits;
    unsigned number, exchanges;
    std::unique_ptr<char[]> stack{new char[65536]};
};
static std::vector<ShimFiber> shim_fibers;
static ShimContext shim_scheduler;
static ShimFiber *shim_running;
static void (*shim_body)(const void *);
static const void *shim_argument;

static inline void shim_wait(ShimWait what) { shim_running->waits = what, shim_running->go_to(shim_scheduler); }
static inline void __syncthreads() { shim_wait(SHIM_BLOCK); }
static inline void __syncwarp() { shim_wait(SHIM_WARP); }
static inline void shim_fiber() { shim_body(shim_argument), shim_wait(SHIM_DONE); }
template <class Argument, void (*kernel)(Argument)> static void shim_call(const void *argument) { kernel(*(const Argument *)argument); }

// What the lanes of a warp show each other. Two places each: a lane that goes on may show its next value before others have read.
static std::uint64_t shim_shown[32][2][32];
static inline const std::uint64_t *shim_show(std::uint64_t value)
{
    const unsigned warp = shim_running->number / 32, side = shim_running->exchanges++ % 2;
    shim_shown[warp][side][shim_running->number % 32] = value;
    __syncwarp();
    return shim_shown[warp][side];
}
template <class T> static inline T __shfl_sync(unsigned, T value, int lane) { return (T)shim_show(value)[lane % 32]; }
static inline int __all_sync(unsigned, int predicate)
{
    const std::uint64_t *shown = shim_show(predicate != 0);
    for (int i = 0; i < 32; ++i) predicate = predicate && shown[i];
    return predicate != 0;
}

static inline unsigned __ballot_sync(unsigned, int predicate)
{
    const std::uint64_t *shown = shim_show(predicate != 0);
    unsigned r = 0;
    for (int i = 0; i < 32; ++i) r |= (unsigned)shown[i] << i;
    return r;
}

// Runs the fibers of a warp until all wait for the block or are done; those that meet at a barrier must meet at the same.
static inline void shim_run_warp(std::size_t first, std::size_t last)
{
    for (bool again = true; again;) {
        std::size_t at_warp = 0;
        for (std::size_t i = first; i < last; ++i) {
            ShimFiber &f = shim_fibers[i];
            if (f.waits == SHIM_RUNS) {
                threadIdx = f.index, shim_running = &f;
                shim_scheduler.go_to(f);
            }
            at_warp += f.waits == SHIM_WARP;
        }
        shim_missed_barriers += at_warp > 0 && at_warp < last - first;
        again = at_warp > 0;
        for (std::size_t i = first; i < last; ++i)
            if (shim_fibers[i].waits == SHIM_WARP) shim_fibers[i].waits = SHIM_RUNS;
    }
}

static inline void shim_run_block(void (*body)(const void *), const void *argument)
{
    shim_body = body, shim_argument = argument;
    std::size_t n = blockDim.x * blockDim.y * blockDim.z, i = 0;
    if (shim_fibers.size() < n) shim_fibers = std::vector<ShimFiber>(n);
    for (unsigned z = 0; z < blockDim.z; ++z) for (unsigned y = 0; y < blockDim.y; ++y) for (unsigned x = 0; x < blockDim.x; ++x, ++i) {
        ShimFiber &f = shim_fibers[i];
        f.index = {x, y, z}, f.waits = SHIM_RUNS, f.number = (unsigned)i, f.exchanges = 0, f.was_left = false;
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = f.stack.get(), f.context.uc_stack.ss_size = 65536;
        makecontext(&f.context, shim_fiber, 0);
    }
    for (std::size_t done = 0; done < n;) {
        for (i = 0; i < n; i += 32) shim_run_warp(i, i + 32 < n ? i + 32 : n);
        done = 0;
        for (i = 0; i < n; ++i) done += shim_fibers[i].waits == SHIM_DONE;
        shim_missed_barriers += done > 0 && done < n;
        for (i = 0; i < n; ++i)
            if (shim_fibers[i].waits == SHIM_BLOCK) shim_fibers[i].waits = SHIM_RUNS;
    }
}
#endif

// A kernel takes one structure by value. cuLaunchKernel is given its address, and so is this.
template <class Argument, void (*kernel)(Argument)> static void shim_launch(const unsigned *grid, const unsigned *block, const void *argument)
{
    gridDim = {grid[0], grid[1], grid[2]}, blockDim = {block[0], block[1], block[2]};
    for (unsigned z = 0; z < grid[2]; ++z) for (unsigned y = 0; y < grid[1]; ++y) for (unsigned x = 0; x < grid[0]; ++x) {
        blockIdx = {x, y, z};
#ifdef SHIM_BARRIERS
        shim_run_block(shim_call<Argument, kernel>, argument);
#else
        for (unsigned k = 0; k < block[2]; ++k) for (unsigned j = 0; j < block[1]; ++j) for (unsigned i = 0; i < block[0]; ++i) {
            threadIdx = {i, j, k};
            kernel(*(const Argument *)argument);
        }
#endif
        shim_end_block();
    }
    shim_end_launch();
}
#define SHIM_EXPORT(symbol, ...) \
    extern "C" void symbol(const unsigned *grid, const unsigned *block, const void *argument) \
    { shim_launch<SHIM_ARGUMENT, &__VA_ARGS__>(grid, block, argument); }
