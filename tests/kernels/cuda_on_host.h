// Lets g++ compile the CUDA kernels unchanged: g++ -std=c++17 -include cuda_on_host.h. Threads of a block run one after
// another; with -DSHIM_BARRIERS each has a stack of its own, and runs from one __syncthreads to the next before it is the next
// one's turn. Nothing happens at the same time, but whatever a missing barrier lets happen too early does.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <unordered_set>
#ifdef SHIM_BARRIERS
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

// Barriers. In each round every thread runs up to its next barrier or to its end; all must come to the same.
static unsigned long long shim_missed_barriers;
extern "C" unsigned long long shim_missed() { return shim_missed_barriers; }
#ifdef SHIM_BARRIERS
struct ShimFiber {
    ucontext_t context;
    dim3 index;
    bool done;
    std::unique_ptr<char[]> stack{new char[65536]};
};
static std::vector<ShimFiber> shim_fibers;
static ucontext_t shim_scheduler;
static ShimFiber *shim_running;
static void (*shim_body)(const void *);
static const void *shim_argument;

static inline void __syncthreads() { swapcontext(&shim_running->context, &shim_scheduler); }
static inline void shim_fiber() { shim_body(shim_argument), shim_running->done = true; }
template <class Argument, void (*kernel)(Argument)> static void shim_call(const void *argument) { kernel(*(const Argument *)argument); }

static inline void shim_run_block(void (*body)(const void *), const void *argument)
{
    shim_body = body, shim_argument = argument;
    std::size_t n = blockDim.x * blockDim.y * blockDim.z, i = 0;
    if (shim_fibers.size() < n) shim_fibers = std::vector<ShimFiber>(n);
    for (unsigned z = 0; z < blockDim.z; ++z) for (unsigned y = 0; y < blockDim.y; ++y) for (unsigned x = 0; x < blockDim.x; ++x, ++i) {
        ShimFiber &f = shim_fibers[i];
        f.index = {x, y, z}, f.done = false;
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = f.stack.get(), f.context.uc_stack.ss_size = 65536, f.context.uc_link = &shim_scheduler;
        makecontext(&f.context, shim_fiber, 0);
    }
    for (std::size_t done = 0; done < n;) {
        done = 0;
        for (i = 0; i < n; ++i) {
            ShimFiber &f = shim_fibers[i];
            if (!f.done) {
                threadIdx = f.index, shim_running = &f;
                swapcontext(&shim_scheduler, &f.context);
            }
            done += f.done;
        }
        shim_missed_barriers += done > 0 && done < n;
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
