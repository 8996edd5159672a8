/* One decode step's attention over ragged storage: the step's tokens are stored, then each segment is attended.

   Called from compiled.py, which checks types, shapes and contiguity; here only numbers that lie in tensors are checked.
   K and V of a segment are read once for all query rows, 64 tokens at a time, with a running maximum (online softmax)
   and float32 accumulation whatever is stored. Plain C with the vector types that gcc and clang have; threads come from
   the OpenMP runtime that torch has loaded, and without one a single thread does all. Knows nothing of torch. */

#include <math.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16
#define TOKENS 64 /* of a block; a multiple of LANES */
#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES)));

enum { FLOAT32, BFLOAT16, FLOAT16 };
enum { OK = 0, NO_MEMORY = -1 }; /* a positive result is 1 + the segment whose numbers are wrong */

#ifdef HALF /* older compilers have no _Float16 */
typedef _Float16 vhf __attribute__((vector_size(2 * LANES)));
#endif

/* ---- numbers of the stored type, as float32 */

INLINE int64_t size_of(int type) { return type == FLOAT32 ? 4 : 2; }

INLINE float load1(const void *from, int64_t i, int type) {
    if (type == FLOAT32) return ((const float *)from)[i];
#ifdef HALF
    if (type == FLOAT16) return (float)((const _Float16 *)from)[i];
#endif
    union { uint32_t bits; float number; } as = {(uint32_t)((const uint16_t *)from)[i] << 16};
    return as.number;
}

INLINE vf load(const void *from, int64_t i, int type) {
    vf wide;
    if (type == FLOAT32) {
        memcpy(&wide, (const float *)from + i, sizeof wide);
        return wide;
    }
#ifdef HALF
    if (type == FLOAT16) {
        vhf half;
        memcpy(&half, (const uint16_t *)from + i, sizeof half);
        return __builtin_convertvector(half, vf);
    }
#endif
    vh half;
    memcpy(&half, (const uint16_t *)from + i, sizeof half);
    return (vf)(__builtin_convertvector(half, vu) << 16);
}

/* The last `count` < LANES channels, zeros behind them. */
static __attribute__((noinline)) vf load_rest(const void *from, int64_t i, int64_t count, int type) {
    float wide[LANES] = {0};
    for (int64_t j = 0; j < count; j++) wide[j] = load1(from, i + j, type);
    vf result;
    memcpy(&result, wide, sizeof result);
    return result;
}

INLINE void store1(void *to, int64_t i, float number, int type) {
    if (type == FLOAT32) {
        ((float *)to)[i] = number;
        return;
    }
#ifdef HALF
    if (type == FLOAT16) {
        ((_Float16 *)to)[i] = (_Float16)number;
        return;
    }
#endif
    union { float number; uint32_t bits; } as = {number};
    uint32_t rounded = as.bits + 0x7FFF + ((as.bits >> 16) & 1); /* to nearest, ties to even */
    ((uint16_t *)to)[i] = number == number ? (uint16_t)(rounded >> 16) : (uint16_t)((as.bits >> 16) | 0x40);
}

/* ---- elementary functions on vectors */

INLINE vf all(float number) { return number - (vf){0}; }
INLINE vf where(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }
INLINE vf larger(vf a, vf b) { return where(a > b, a, b); }

/* e^x to about one unit in the last place for x in [-87, 88]; below, about 1e-38. */
INLINE vf exponential(vf x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer, which its low bits then hold */
    x = where(x < all(-87.0f), all(-87.0f), x);
    vf rounded = x * 1.44269504f + magic;
    vf n = rounded - magic;
    vf f = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    vf p = f * 1.9875691500e-4f + 1.3981999507e-3f; /* the polynomial of Cephes' expf */
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * f * f + f + 1.0f;
    vi exponent = ((vi)rounded - 0x4B400000 + 127) << 23;
    return p * (vf)exponent;
}

INLINE vf hyperbolic_tangent(vf x) {
    vf size = where(x < all(0.0f), -x, x), square = x * x;
    vf e = exponential(where(size > all(20.0f), all(-40.0f), -2.0f * size));
    vf far = (1.0f - e) / (1.0f + e);
    vf near = x * (1.0f + square * (-0.333333333f + square * (0.133333333f + square * -0.0539682540f)));
    return where(size < all(0.1f), near, where(x < all(0.0f), -far, far));
}

INLINE float sum(vf x) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += x[i];
    return total;
}

INLINE float maximum(vf x) {
    float most = x[0];
    for (int i = 1; i < LANES; i++) most = x[i] > most ? x[i] : most;
    return most;
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#endif
#endif

/* Lane i of the result is the sum of a[i]. */
INLINE vf sums(vf a[LANES]) {
#ifdef SHUFFLE
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        a[i] = SHUFFLE(a[2 * i], a[2 * i + 1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
               SHUFFLE(a[2 * i], a[2 * i + 1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        a[i] = SHUFFLE(a[2 * i], a[2 * i + 1], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
               SHUFFLE(a[2 * i], a[2 * i + 1], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        a[i] = SHUFFLE(a[2 * i], a[2 * i + 1], 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
               SHUFFLE(a[2 * i], a[2 * i + 1], 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
    return SHUFFLE(a[0], a[1], 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           SHUFFLE(a[0], a[1], 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#else
    vf result;
    for (int i = 0; i < LANES; i++) result[i] = sum(a[i]);
    return result;
#endif
}

/* ---- one block of tokens for up to four query rows */

typedef struct {
    const void *queries, *new_keys, *new_values;
    char *keys, *values;
    const int64_t *starts;
    int64_t *lengths;
    const int64_t *places;
    const uint8_t *grows;
    void *out;
    float *lse, *weights;
    int64_t segments, rows, channels, head_dim, slots, width;
    int query_type; /* STORED, or FLOAT32 */
    float scaling, softcap;
    atomic_long next;
    atomic_int result;
} call;

/* Whether the segment, whose length counts the new token, gets its weights. */
INLINE int weighed(const call *c, int64_t s) { return c->weights && c->lengths[s] <= c->width; }

INLINE int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

/* logits[r][t] for t < tokens, and in multiples of LANES beyond: -inf. queries: R rows, `stride` apart, scaled. */
INLINE void block_logits(const call *c, const float *queries, int64_t stride, const char *keys, int64_t tokens,
                         float logits[4][TOKENS + LANES], const int R, const int type) {
    const int T = R == 1 ? 16 : R == 2 ? 8 : 4; /* tokens of a tile: up to LANES sums at once */
    const int64_t whole = c->channels / LANES * LANES, rest = c->channels - whole;
    for (int64_t t = 0; t < tokens; t += T) {
        vf a[LANES] = {0};
        int64_t at[16];
#pragma GCC unroll 16
        for (int i = 0; i < T; i++) at[i] = (t + i < tokens ? t + i : tokens - 1) * c->channels;
        for (int64_t j = 0; j < whole; j += LANES) {
            vf q[4];
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) q[r] = load(queries, r * stride + j, FLOAT32);
#pragma GCC unroll 16
            for (int i = 0; i < T; i++) {
                vf k = load(keys, at[i] + j, type);
#pragma GCC unroll 4
                for (int r = 0; r < R; r++) a[r * T + i] += k * q[r];
            }
        }
        if (rest)
            for (int i = 0; i < T; i++) {
                vf k = load_rest(keys, at[i] + whole, rest, type);
                for (int r = 0; r < R; r++) a[r * T + i] += k * load(queries, r * stride + whole, FLOAT32);
            }
        float s[LANES];
        vf all_sums = sums(a);
        memcpy(s, &all_sums, sizeof s);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) memcpy(&logits[r][t], s + r * T, 4 * T);
    }
    if (c->softcap > 0)
        for (int r = 0; r < R; r++)
            for (int64_t t = 0; t < tokens; t += LANES) {
                vf x = c->softcap * hyperbolic_tangent(load(logits[r], t, FLOAT32) / c->softcap);
                memcpy(&logits[r][t], &x, sizeof x);
            }
    for (int r = 0; r < R; r++)
        for (int64_t t = tokens; t < padded(tokens); t++) logits[r][t] = -INFINITY;
}

/* Probabilities times values, added to out: R rows, `stride` apart. */
INLINE void block_values(const call *c, const char *values, int64_t tokens, float p[4][TOKENS + LANES], float *out,
                         int64_t stride, const int R, const int type) {
    const int64_t dim = c->head_dim, whole = dim / LANES * LANES, rest = dim - whole;
    int64_t d = 0;
    for (; d + 4 * LANES <= whole; d += 4 * LANES) {
        vf a[4][4];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) a[r][i] = load(out, r * stride + d + i * LANES, FLOAT32);
        for (int64_t t = 0; t < tokens; t++)
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                vf v = load(values, t * dim + d + i * LANES, type);
#pragma GCC unroll 4
                for (int r = 0; r < R; r++) a[r][i] += p[r][t] * v;
            }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) memcpy(out + r * stride + d + i * LANES, &a[r][i], sizeof(vf));
    }
    for (; d < dim; d += LANES) {
        vf a[4];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) a[r] = load(out, r * stride + d, FLOAT32);
        for (int64_t t = 0; t < tokens; t++) {
            vf v = d < whole ? load(values, t * dim + d, type) : load_rest(values, t * dim + d, rest, type);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) a[r] += p[r][t] * v;
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) memcpy(out + r * stride + d, &a[r], sizeof(vf));
    }
}

typedef struct { /* of one thread; rows padded to LANES */
    float *queries, *out, *most, *total;
} scratch;

INLINE void block(const call *c, int64_t s, int64_t row, int64_t first, int64_t tokens, const scratch *w, const int R,
                  const int type) {
    const int64_t q = padded(c->channels), o = padded(c->head_dim), slot = c->starts[s] + first;
    float logits[4][TOKENS + LANES] __attribute__((aligned(64)));
    block_logits(c, w->queries + row * q, q, c->keys + slot * c->channels * size_of(type), tokens, logits, R, type);
    for (int r = 0; r < R; r++) {
        if (weighed(c, s))
            memcpy(c->weights + (s * c->rows + row + r) * c->width + first, logits[r], 4 * (size_t)tokens);
        vf most = load(logits[r], 0, FLOAT32);
        for (int64_t t = LANES; t < tokens; t += LANES) most = larger(most, load(logits[r], t, FLOAT32));
        float before = w->most[row + r], now = maximum(most);
        now = now > before ? now : before;
        vf total = {0};
        for (int64_t t = 0; t < tokens; t += LANES) {
            vf p = exponential(load(logits[r], t, FLOAT32) - now);
            total += p;
            memcpy(&logits[r][t], &p, sizeof p);
        }
        float share = first ? expf(before - now) : 0.0f;
        w->most[row + r] = now;
        w->total[row + r] = w->total[row + r] * share + sum(total);
        if (first && share != 1.0f)
            for (int64_t d = 0; d < o; d++) w->out[(row + r) * o + d] *= share;
    }
    block_values(c, c->values + slot * c->head_dim * size_of(type), tokens, logits, w->out + row * o, o, R, type);
}

INLINE void segment(const call *c, int64_t s, const scratch *w, const int type) {
    const int64_t rows = c->rows, q = padded(c->channels), o = padded(c->head_dim), size = size_of(type);
    if (c->new_keys) {
        int64_t slot = c->starts[s] + (c->places ? c->places[s] : c->lengths[s]);
        int64_t k = c->channels * size, v = c->head_dim * size;
        memcpy(c->keys + slot * k, (const char *)c->new_keys + s * k, k);
        memcpy(c->values + slot * v, (const char *)c->new_values + s * v, v);
        c->lengths[s] += c->grows ? c->grows[s] != 0 : 1;
    }
    const int64_t length = c->lengths[s];
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t j = 0; j < c->channels; j++)
            w->queries[r * q + j] = load1(c->queries, (s * rows + r) * c->channels + j, c->query_type) * c->scaling;
        for (int64_t j = c->channels; j < q; j++) w->queries[r * q + j] = 0;
        w->most[r] = -INFINITY;
        w->total[r] = 0;
    }
    memset(w->out, 0, 4 * (size_t)(rows * o));
    for (int64_t first = 0; first < length; first += TOKENS) {
        int64_t tokens = length - first < TOKENS ? length - first : TOKENS, row = 0;
        for (; row + 4 <= rows; row += 4) block(c, s, row, first, tokens, w, 4, type);
        if (rows - row == 3) block(c, s, row, first, tokens, w, 3, type);
        if (rows - row == 2) block(c, s, row, first, tokens, w, 2, type);
        if (rows - row == 1) block(c, s, row, first, tokens, w, 1, type);
    }
    for (int64_t r = 0; r < rows; r++) {
        float scale = length ? 1.0f / w->total[r] : 0.0f, lse = length ? w->most[r] + logf(w->total[r]) : -INFINITY;
        for (int64_t d = 0; d < c->head_dim; d++)
            store1(c->out, (s * rows + r) * c->head_dim + d, w->out[r * o + d] * scale, c->query_type);
        if (c->lse) c->lse[s * rows + r] = lse;
        if (weighed(c, s)) {
            float *line = c->weights + (s * rows + r) * c->width;
            int64_t t = 0;
            for (; t + LANES <= length; t += LANES) {
                vf p = exponential(load(line, t, FLOAT32) - lse);
                memcpy(line + t, &p, sizeof p);
            }
            if (t < length) { /* as above, so that equal logits have equal weights wherever they stand */
                vf p = exponential(load_rest(line, t, length - t, FLOAT32) - lse);
                memcpy(line + t, &p, 4 * (size_t)(length - t));
                t = length;
            }
            for (; t < c->width; t++) line[t] = 0;
        }
    }
}

/* ---- all segments */

static void work(void *argument) {
    call *c = argument;
    size_t q = c->rows * padded(c->channels), o = c->rows * padded(c->head_dim), r = padded(c->rows);
    float *memory = aligned_alloc(64, padded(q + o + 2 * r) * sizeof(float));
    if (!memory) {
        atomic_store(&c->result, NO_MEMORY);
        return;
    }
    scratch w = {memory, memory + q, memory + q + o, memory + q + o + r};
    for (int64_t s; (s = atomic_fetch_add(&c->next, 1)) < c->segments;) segment(c, s, &w, STORED);
    free(memory);
}

void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned) __attribute__((weak)); /* of the runtime that torch has */

int64_t cokv_step(const void *queries, const void *new_keys, const void *new_values, void *keys, void *values,
                  const int64_t *starts, int64_t *lengths, const int64_t *places, const uint8_t *grows, void *out,
                  float *lse, float *weights, int64_t segments, int64_t rows, int64_t channels, int64_t head_dim,
                  int64_t slots, int64_t width, int query_type, float scaling, float softcap, int threads) {
    call c = {queries, new_keys, new_values, keys, values, starts, lengths, places, grows, out, lse, weights, segments,
              rows, channels, head_dim, slots, width, query_type, scaling, softcap, 0, OK};
    int64_t total = 0;
    for (int64_t s = 0; s < segments; s++) { /* before anything is written */
        int64_t place = !new_keys ? 0 : places ? places[s] : lengths[s];
        int64_t length = lengths[s] + (new_keys && (!grows || grows[s]));
        if (starts[s] < 0 || lengths[s] < 0 || starts[s] + length > slots || place < 0 || (new_keys && place >= length))
            return 1 + s;
        total += length;
    }
    if (threads > 1 && segments > 1 && GOMP_parallel && total * rows * channels > 1 << 16)
        GOMP_parallel(work, &c, (unsigned)(threads < segments ? threads : segments), 0);
    else
        work(&c);
    return atomic_load(&c.result);
}
