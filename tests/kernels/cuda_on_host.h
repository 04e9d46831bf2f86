// Lets g++ compile the CUDA kernels unchanged: g++ -std=c++17 -include cuda_on_host.h. Threads of a block run one after
// another, so kernels that wait for each other (__syncthreads, shuffles) are not for this header.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <unordered_set>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

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

// A kernel takes one structure by value. cuLaunchKernel is given its address, and so is this.
template <class Argument> static void shim_launch(void (*kernel)(Argument), const unsigned *grid, const unsigned *block, const void *argument)
{
    const Argument &a = *(const Argument *)argument;
    gridDim = {grid[0], grid[1], grid[2]}, blockDim = {block[0], block[1], block[2]};
    for (unsigned z = 0; z < grid[2]; ++z) for (unsigned y = 0; y < grid[1]; ++y) for (unsigned x = 0; x < grid[0]; ++x) {
        blockIdx = {x, y, z};
        for (unsigned k = 0; k < block[2]; ++k) for (unsigned j = 0; j < block[1]; ++j) for (unsigned i = 0; i < block[0]; ++i) {
            threadIdx = {i, j, k};
            kernel(a);
        }
        shim_end_block();
    }
    shim_end_launch();
}
#define SHIM_EXPORT(symbol, ...) \
    extern "C" void symbol(const unsigned *grid, const unsigned *block, const void *argument) \
    { shim_launch<SHIM_ARGUMENT>(&__VA_ARGS__, grid, block, argument); }
