// Chunks of zlib streams: a header of two bytes (RFC 1950), blocks of deflate (RFC 1951), Adler-32 of what comes out.
//
// One warp takes a chunk, and is a thread block of its own, so that none waits for a slower one: hundreds to thousands of chunks of
// a tile are what runs side by side. Symbols are decoded one after another, by all lanes in step: a word of bits that all have, a
// load from a table in shared memory, a shift. Lanes share everything else: each holds one of the next 32 words of input, and one of
// the last 32 literals; they make tables, copy matches and stored blocks, and add up the checksum together.
//
// Bound: the latency of that chain, in which a symbol depends on the length of the one before: some 40 instructions and one load from
// shared memory for a literal, about 120 and two loads for a match. One warp is slow; what a device gains are the others, so a tile
// of a few large chunks is better inflated by a CPU. Tables take 3.5 KiB: 16 (Turing) to 32 warps fit a multiprocessor.
//
// Rules are those of zlib, status by status, where a stream is good or bad and which byte is one too many. nvCOMP is not used: its
// decoder accepts valid streams only, these come from files, and it cannot be tried without a device.

#include "inflate.cuh"

// Bits that look a symbol up at once; longer codes are found by the lanes, each of which knows a length.
#define LITERAL_BITS 10
#define DISTANCE_BITS 8
// Symbols of both alphabets, those included that only the fixed codes have.
#define LITERALS 288
#define DISTANCES 32
// Stands for bits that are no code; beyond all symbols.
#define NO_SYMBOL 511u
#define NO_BYTE 256u

// Entries are symbol << 4 | bits of its code, or 0 for bits that begin a longer code, or none.
__shared__ u16 literal_table[1 << LITERAL_BITS];
__shared__ u16 distance_table[1 << DISTANCE_BITS];
// Symbols in order of their codes.
__shared__ u16 literal_order[LITERALS], distance_order[DISTANCES];
// Bits of the codes of literals and lengths, then of distances.
__shared__ u8 lengths[LITERALS + DISTANCES];

// The stored bytes as bits, lowest first, in words as they lie in memory: the first and the last may be cut. Behind the end come zeros,
// which are counted. All lanes hold the same, but for `mine`.
struct Bits {
    const u8 *s;
    u64 hold;                                   // bits to come, and zeros
    u32 bits, beyond;                           // how many of them are there, and how many of those lie behind the end
    u32 size, skew;                             // bytes at s; bytes from the begin of the first word to s
    u32 whole, next;                            // words that do not reach beyond the end; words taken
    u32 mine, lane;                             // the word of this lane, of 32

    // Word number k, of which bytes outside are 0.
    __device__ __forceinline__ u32 word(u32 k) const
    {
        const i64 first = 4ll * k - skew;
        if (first >= 0 && k < whole) return __ldg((const u32 *)(s + first));
        u32 value = 0;
        for (int b = 0; b < 4; ++b)
            if (first + b >= 0 && first + b < size) value |= (u32)__ldg(s + first + b) << 8 * b;
        return value;
    }

    // At least 32 bits.
    __device__ __forceinline__ void refill()
    {
        if (bits >= 32) return;
        if (next % WARP == 0) mine = word(next + lane);
        hold |= (u64)__shfl_sync(ALL, mine, next % WARP) << bits;
        if (next >= whole) beyond += next == whole ? 32 - (skew + size) % 4 * 8 : 32;
        ++next, bits += 32;
    }

    __device__ __forceinline__ void drop(u32 n) { hold >>= n, bits -= n; }

    __device__ __forceinline__ u32 take(u32 n)
    {
        const u32 value = (u32)hold & ((1u << n) - 1);
        return drop(n), value;
    }

    // Whether bits have been taken that are not there.
    __device__ __forceinline__ bool ended() const { return bits < beyond; }

    // The byte that comes next, where bits are a multiple of 8.
    __device__ __forceinline__ u32 at() const { return 4 * next - bits / 8 - skew; }

    __device__ __forceinline__ void seek(u32 to)
    {
        const u64 place = (u64)to + skew;
        next = (u32)(place / 4), mine = word(next / WARP * WARP + lane);
        hold = 0, bits = beyond = 0;
        refill();
        drop((u32)(place % 4) * 8);
    }
};

// A code, as lane i knows it for codes of i bits: where they end, if codes are padded to 15 bits, and the place of one in the order of
// all, less the code.
struct Code {
    u32 limit, place;
};

// What comes out. The one byte that zlib is asked for beyond `gives` is `extra`.
struct Out {
    u8 *to;
    u32 skew, gives, d;                         // as of lz4(); d counts literals that are not written yet
    u32 waiting, literal, extra;                // such literals; the one of this lane

    __device__ __forceinline__ void write(u32 lane)
    {
        if (lane < waiting) to[d - waiting + lane] = (u8)literal;
        waiting = 0;
    }
};

// Of 32 lengths, whose bits are `planes`: which are `length`.
__device__ __forceinline__ u32 those(const u32 (&planes)[4], u32 length)
{
    u32 mask = ALL;
#pragma unroll
    for (int b = 0; b < 4; ++b) mask &= length >> b & 1 ? planes[b] : ~planes[b];
    return mask;
}

__device__ __forceinline__ void planes_of(u32 (&planes)[4], u32 length)
{
#pragma unroll
    for (int b = 0; b < 4; ++b) planes[b] = __ballot_sync(ALL, length >> b & 1);
}

// The code of n symbols whose lengths are `from`: its table of 2^BITS entries, and its order. False if there are more codes than bits
// can tell apart, or fewer; one code of one bit may be alone, and none at all may be there, which is wrong only where one is read.
template <int BITS> __device__ __forceinline__ bool make(Code &code, u16 *table, u16 *order, const u8 *from, u32 n, u32 lane)
{
    u32 planes[4], count = 0;
    __syncwarp();
    for (u32 i = lane; i < 1u << BITS; i += WARP) table[i] = 0;
    for (u32 i = 0; i < n; i += WARP) {
        planes_of(planes, i + lane < n ? from[i + lane] : 0);
        count += __popc(those(planes, lane));
    }
    if (lane == 0 || lane > 15) count = 0;
    // Sums of codes padded to 15 bits, which stay below 2^23, and of symbols.
    const u32 padded = count << (15 - lane % 16);
    u32 sums = count << 23 | padded;
    for (u32 distance = 1; distance < 16; distance *= 2) {
        const u32 other = __shfl_sync(ALL, sums, (lane - distance) % WARP);
        if (lane >= distance) sums += other;
    }
    const u32 all = __shfl_sync(ALL, sums, 15);
    if ((all & 0x7fffff) != 1u << 15 && all != (1u << 23 | 1u << 14) && all != 0) return false;
    code.limit = lane < 16 ? sums & 0x7fffff : 0;
    u32 next = (sums >> 23) - count;
    code.place = next - ((code.limit - padded) >> (15 - lane % 16));
    for (u32 i = 0; i < n; i += WARP) {
        const u32 length = i + lane < n ? from[i + lane] : 0;
        planes_of(planes, length);
        const u32 place = __shfl_sync(ALL, next, length) + __popc(those(planes, length) & ((1u << lane) - 1));
        const u32 bits = place - __shfl_sync(ALL, code.place, length);
        next += __popc(those(planes, lane % 16));
        if (length == 0) continue;
        order[place] = (u16)(i + lane);
        if (length <= BITS)
            for (u32 k = __brev(bits) >> (32 - length); k < 1u << BITS; k += 1u << length) table[k] = (u16)((i + lane) << 4 | length);
    }
    __syncwarp();
    return true;
}

// The entry of the code that comes next.
template <int BITS> __device__ __forceinline__ u32 look_up(const Bits &in, const Code &code, const u16 *table, const u16 *order)
{
    const u32 entry = table[(u32)in.hold & ((1u << BITS) - 1)];
    if (entry) return entry;
    const u32 bits = __brev((u32)in.hold) >> 17, longer = __ballot_sync(ALL, bits < code.limit);
    if (longer == 0) return NO_SYMBOL << 4 | 1;
    const u32 length = __ffs(longer) - 1;
    return (u32)order[__shfl_sync(ALL, code.place, length) + (bits >> (15 - length))] << 4 | length;
}

// Lengths of the fixed codes.
__device__ __forceinline__ void fixed_lengths(u32 lane)
{
    __syncwarp();
    for (u32 i = lane; i < LITERALS; i += WARP) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    lengths[LITERALS + lane] = 5;
}

// Lengths that a block brings along, in a code of their own, which the memory for distances has room for.
__device__ __forceinline__ u32 read_lengths(Bits &in, u32 &literals, u32 &distances, u32 lane)
{
    in.refill();
    literals = in.take(5) + 257, distances = in.take(5) + 1;
    const u32 given = in.take(4) + 4;
    if (in.ended()) return INPUT;
    if (literals > 286 || distances > 30) return DEFLATE;
    __syncwarp();
    lengths[lane] = 0;
    __syncwarp();
    for (u32 k = 0; k < given; ++k) {
        in.refill();
        const u32 length = in.take(3), symbol = k < 3 ? 16 + k : k == 3 ? 0 : k % 2 ? 7 - (k - 5) / 2 : 8 + (k - 4) / 2;
        if (lane == 0) lengths[symbol] = (u8)length;
    }
    if (in.ended()) return INPUT;
    Code code;
    __syncwarp();
    // One code alone is not enough here; without any, zlib takes each bit for the length 0.
    if (__popc(__ballot_sync(ALL, lengths[lane] != 0)) == 1) return DEFLATE;
    if (!make<DISTANCE_BITS>(code, distance_table, distance_order, lengths, 19, lane)) return DEFLATE;
    u32 last = NO_SYMBOL;
    for (u32 done = 0, n; done < literals + distances; done += n) {
        in.refill();
        const u32 found = distance_table[(u32)in.hold & ((1u << DISTANCE_BITS) - 1)], entry = found ? found : 1, symbol = entry >> 4;
        in.drop(entry & 15);
        n = symbol < 16 ? 1 : symbol == 16 ? 3 + in.take(2) : symbol == 17 ? 3 + in.take(3) : 11 + in.take(7);
        if (in.ended()) return INPUT;
        if (symbol != 16) last = symbol < 16 ? symbol : 0;
        if (last == NO_SYMBOL || n > literals + distances - done) return DEFLATE;
        for (u32 i = lane; i < n; i += WARP) lengths[done + i] = (u8)last;
    }
    __syncwarp();
    return lengths[256] ? GOOD : DEFLATE;
}

// A block that is not compressed.
__device__ __forceinline__ u32 stored_block(Bits &in, Out &out, u32 lane)
{
    in.drop(in.bits % 8);
    in.refill();
    const u32 sizes = (u32)in.hold, n = sizes & 0xffff;
    in.drop(32);
    if (in.ended()) return INPUT;
    if (n != (~sizes >> 16)) return DEFLATE;
    const u32 at = in.at(), here = n < in.size - at ? n : in.size - at, room = out.gives - out.d;
    if (here < n || n > room) {
        if (out.extra != NO_BYTE) return OUTPUT;
        if (here <= room) return INPUT;
        if (n - room > 1) return OUTPUT;
        out.extra = __ldg(in.s + at + room);
    }
    out.write(lane);
    copy_bytes(out.to + out.d, in.s + at, n < room ? n : room, lane);
    out.d += n < room ? n : room;
    in.seek(at + n);
    return GOOD;
}

// Symbols to the end of a block.
__device__ __forceinline__ u32 symbols(Bits &in, Out &out, const Code &literals, const Code &distances, u32 lane, u32 inverse)
{
    while (true) {
        in.refill();
        u32 entry = look_up<LITERAL_BITS>(in, literals, literal_table, literal_order), symbol = entry >> 4;
        in.drop(entry & 15);
        if (in.ended()) return INPUT;
        if (symbol < 256) {
            if (out.d == out.gives) {
                if (out.extra != NO_BYTE) return OUTPUT;
                out.extra = symbol;
                continue;
            }
            if (lane == out.waiting) out.literal = symbol;
            ++out.d;
            if (++out.waiting == WARP) out.write(lane);
            continue;
        }
        if (symbol == 256) return GOOD;
        if (symbol > 285) return DEFLATE;
        // Four lengths, or two distances, have the same number of bits behind them.
        symbol -= 257;
        u32 n = symbol + 3;
        if (symbol >= 8) {
            const u32 more = symbol / 4 - 1;
            n = symbol == 28 ? 258 : ((4 + symbol % 4) << more) + in.take(more) + 3;
        }
        in.refill();
        entry = look_up<DISTANCE_BITS>(in, distances, distance_table, distance_order), symbol = entry >> 4;
        in.drop(entry & 15);
        if (in.ended()) return INPUT;
        if (symbol > 29) return DEFLATE;
        u32 distance = symbol + 1;
        if (symbol >= 4) {
            const u32 more = symbol / 2 - 1;
            distance = ((2 + symbol % 2) << more) + in.take(more) + 1;
            if (in.ended()) return INPUT;
        }
        const u32 room = out.gives - out.d;
        if (distance > out.d || n > room) {
            if (out.extra != NO_BYTE) return OUTPUT;
            if (distance > out.d) return DEFLATE;
            if (n - room > 1) return OUTPUT;
        }
        out.write(lane);
        copy_match(out.to, out.skew, out.d, distance, n < room ? n : room, lane, inverse);
        out.d += n < room ? n : room;
        if (n > room) {
            __syncwarp();
            out.extra = out.to[out.d - distance];
        }
    }
}

// All blocks.
__device__ __forceinline__ u32 blocks(Bits &in, Out &out, u32 lane)
{
    const u32 inverse = inverse_of(lane);
    Code literals = {}, distances = {};
    bool last = false, fixed = false;
    while (!last) {
        in.refill();
        last = in.take(1);
        const u32 type = in.take(2);
        if (in.ended()) return INPUT;
        if (type == 3) return DEFLATE;
        u32 rule = GOOD;
        if (type == 0) {
            rule = stored_block(in, out, lane);
        } else {
            u32 n = LITERALS, m = DISTANCES;
            if (type == 1 && !fixed) fixed_lengths(lane);
            if (type == 2) rule = read_lengths(in, n, m, lane);
            if (rule) return rule;
            if ((type == 2 || !fixed) && !(make<LITERAL_BITS>(literals, literal_table, literal_order, lengths, n, lane)
                                           && make<DISTANCE_BITS>(distances, distance_table, distance_order, lengths + n, m, lane)))
                return DEFLATE;
            fixed = type == 1;
            rule = symbols(in, out, literals, distances, lane, inverse);
        }
        if (rule) return rule;
    }
    return GOOD;
}

#define ADLER 65521u

// Adler-32 of what came out, and of the extra byte: one and the sum of all bytes; in the high half the sum of all such sums, to which a
// byte adds as often as there are bytes from it to the end.
__device__ __forceinline__ u32 adler32(const Out &out, u32 lane)
{
    const u64 n = (u64)out.d + (out.extra != NO_BYTE);
    u64 low = 0, high = 0;
    for (u64 first = 0; first < out.d; first += 1 << 20) {              // 2^15 products of 2^40 at a time
        const u64 end = first + (1 << 20) < out.d ? first + (1 << 20) : out.d;
        for (u64 i = first + lane; i < end; i += WARP) low += out.to[i], high += out.to[i] * (n - i);
        high %= ADLER;
    }
    u32 a = (u32)(low % ADLER), b = (u32)high;
    for (u32 distance = WARP / 2; distance; distance /= 2) {
        a += __shfl_sync(ALL, a, lane ^ distance);
        b += __shfl_sync(ALL, b, lane ^ distance);
    }
    const u32 extra = out.extra != NO_BYTE ? out.extra : 0;
    return (u32)((b + n + extra) % ADLER) << 16 | (a + 1 + extra) % ADLER;
}

// A zlib stream; the first rule that it breaks.
__device__ __forceinline__ u32 zlib(Bits &in, Out &out, u32 lane)
{
    in.seek(0);
    in.refill();
    const u32 method = in.take(8), flags = in.take(8);
    if (in.ended()) return INPUT;
    if ((method << 8 | flags) % 31 || method % 16 != 8 || method / 16 > 7) return DEFLATE;
    if (flags & 0x20) return in.size < 6 ? INPUT : DEFLATE;             // a dictionary, whose name follows, and nobody has
    if (const u32 rule = blocks(in, out, lane)) return rule;
    in.drop(in.bits % 8);
    in.refill();
    const u32 checksum = __byte_perm((u32)in.hold, 0, 0x0123);
    in.drop(32);
    if (in.ended()) return INPUT;
    out.write(lane);
    __syncwarp();
    if (checksum != adler32(out, lane)) return DEFLATE;
    if (out.extra != NO_BYTE) return OUTPUT;
    return out.d < out.gives ? SHORT : in.at() < in.size ? LEFT_OVER : GOOD;
}

__global__ void __launch_bounds__(WARP, 32) deflate(const __grid_constant__ InflateCall call)
{
    const Task task = call.tasks[blockIdx.x];
    if (call.status[task.chunk]) return;
    const u32 lane = threadIdx.x, skew = (u32)((u64)task.src % 4);
    Bits in = {task.src, 0, 0, 0, task.size, skew, (u32)(((u64)task.size + skew) / 4), 0, 0, lane};
    Out out = {task.dst, (u32)((u64)task.dst % 16), call.gives, 0, 0, 0, NO_BYTE};
    const u32 rule = zlib(in, out, lane);
    // A stream that ends after one byte too many has too many bytes.
    if (lane == 0) report(call, task, rule == INPUT && out.extra != NO_BYTE ? (u32)OUTPUT : rule, 0);
}
