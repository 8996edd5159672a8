/* Attention over tokens that are packed into 2, 4 or 8 bits and read as they are, and over a residual in full precision.

   With code c, step s and smallest number l of a group, q . k = sum_d (q_d s_d) c_d + sum_d q_d l_d: the step goes into
   the query, the rest is a constant of the group. Likewise for values, whose groups lie along channels.
   Layouts are those of storage/quantized.py: keys' codes [groups, head_dim, bytes of a group], low and step [groups,
   head_dim]; values' codes [groups, group, parts, bytes of a part], low and step [groups, group, parts]. */

#include <stdatomic.h>
#include <stdlib.h>

#include "online_softmax.h"

#define WIDEST 256 /* channels of a head that the fast path takes */

typedef struct {
    int64_t bits, counts, places, key_codes, key_low, key_step, value_codes, value_low, value_step; /* addresses */
} pool_of;

INLINE ints widened(const uint8_t *codes) {
#ifdef __AVX512F__
    return (ints)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)codes));
#else
    int32_t wide[LANES];
    for (int i = 0; i < LANES; i++) wide[i] = codes[i];
    ints out;
    memcpy(&out, wide, sizeof out);
    return out;
#endif
}

/* 32 numbers of one width, in the order of shifts: what a shift gives of all bytes lies together. */
INLINE void unpack32(const uint8_t *codes, int bits, floats *first, floats *second) {
    if (bits == 8) {
        *first = __builtin_convertvector(widened(codes), floats);
        *second = __builtin_convertvector(widened(codes + LANES), floats);
    } else if (bits == 4) {
        const ints wide = widened(codes);
        *first = __builtin_convertvector(wide & 15, floats);
        *second = __builtin_convertvector(wide >> 4, floats);
    } else {
        uint8_t twice[LANES];
        memcpy(twice, codes, 8), memcpy(twice + 8, codes, 8);
        const ints wide = widened(twice), shift = {0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2};
        *first = __builtin_convertvector((wide >> shift) & 3, floats);
        *second = __builtin_convertvector((wide >> (shift + 4)) & 3, floats);
    }
}

INLINE void packed_logits(
    const float *queries, int rows, const uint8_t *codes, int bits, const float *low, const float *step, int64_t dim,
    float *scaled, float *logits
) {
    floats sums[8][2];
    for (int r = 0; r < rows; r++) {
        floats rest = all(0);
        for (int64_t d = 0; d < dim; d += LANES) {
            const floats q = load(queries + r * dim + d);
            store(scaled + r * WIDEST + d, q * load(step + d));
            rest += q * load(low + d);
        }
        sums[r][0] = sums[r][1] = all(sum(rest));
    }
    for (int64_t d = 0; d < dim; d++) {
        floats first, second;
        unpack32(codes + d * 4 * bits, bits, &first, &second);
        for (int r = 0; r < rows; r++) {
            const float q = scaled[r * WIDEST + d];
            sums[r][0] += first * q;
            sums[r][1] += second * q;
        }
    }
    for (int r = 0; r < rows; r++) store(logits + r * BLOCK, sums[r][0]), store(logits + r * BLOCK + LANES, sums[r][1]);
}

INLINE void packed_values(
    const float *weights, int rows, const uint8_t *codes, int bits, const float *low, const float *step, int64_t dim,
    float *scaled, float *out
) {
    const int64_t parts = dim / 32;
    for (int64_t part = 0; part < parts; part++) {
        floats sums[8][2];
        for (int r = 0; r < rows; r++) {
            floats rest = all(0);
            for (int t = 0; t < 32; t += LANES) {
                const floats weight = load(weights + r * BLOCK + t);
                store(scaled + r * 32 + t, weight * load(step + part * 32 + t));
                rest += weight * load(low + part * 32 + t);
            }
            const float both = sum(rest);
            sums[r][0] = load(out + r * dim + part * 32) + both;
            sums[r][1] = load(out + r * dim + part * 32 + LANES) + both;
        }
        for (int t = 0; t < 32; t++) {
            floats first, second;
            unpack32(codes + (t * parts + part) * 4 * bits, bits, &first, &second);
            for (int r = 0; r < rows; r++) {
                sums[r][0] += first * scaled[r * 32 + t];
                sums[r][1] += second * scaled[r * 32 + t];
            }
        }
        for (int r = 0; r < rows; r++) {
            store(out + r * dim + part * 32, sums[r][0]);
            store(out + r * dim + part * 32 + LANES, sums[r][1]);
        }
    }
}

#if defined(__GNUC__) && !defined(__clang__)
#define PICK(a, b, ...) __builtin_shuffle(a, b, (ints){__VA_ARGS__})
#else
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#endif

/* `count` rows of 32 numbers from the order of shifts into their own. */
INLINE void reorder(float *numbers, int64_t count, int bits) {
    for (int64_t r = 0; r < count && bits < 8; r++, numbers += 32) {
        const floats a = load(numbers), b = load(numbers + LANES);
        if (bits == 4) {
            store(numbers, PICK(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
            store(numbers + LANES, PICK(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
        } else {
            store(numbers, PICK(a, b, 0, 8, 16, 24, 1, 9, 17, 25, 2, 10, 18, 26, 3, 11, 19, 27));
            store(numbers + LANES, PICK(a, b, 4, 12, 20, 28, 5, 13, 21, 29, 6, 14, 22, 30, 7, 15, 23, 31));
        }
    }
}

/* Of a group of 32 tokens [32, parts] -> [parts, 32]. */
INLINE void by_part(const float *from, int64_t parts, float *to) {
    if (parts == 2) {
        for (int i = 0; i < 2; i++) {
            const floats a = load(from + i * 32), b = load(from + i * 32 + LANES);
            store(to + i * LANES, PICK(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30));
            store(to + 32 + i * LANES, PICK(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31));
        }
        return;
    }
    for (int64_t part = 0; part < parts; part++)
        for (int t = 0; t < 32; t++) to[part * 32 + t] = from[t * parts + part];
}

#define OF_WIDTH(bits, call) \
    if (bits == 2) { enum { B = 2 }; call; } else if (bits == 4) { enum { B = 4 }; call; } else { enum { B = 8 }; call; }

/* Groups of 32 tokens, values in parts of 32 channels. */
static void attend_groups_of_32(
    const pool_of *pool, const int64_t *places, int64_t groups, const float *queries, int rows, int64_t dim, int dtype,
    float softcap, float *scratch, float *logits, row_state *state, float *out
) {
    const int64_t parts = dim / 32, bits = pool->bits, size = dim * 4 * bits;
    float *low_space = scratch, *step_space = low_space + dim, *scaled = step_space + dim;
    for (int64_t i = 0; i < groups; i++) {
        const int64_t place = places[i], at = place * dim;
        const float *low = widened_or_there((const void *)pool->key_low, dtype, at, dim, low_space);
        const float *step = widened_or_there((const void *)pool->key_step, dtype, at, dim, step_space);
        const uint8_t *codes = (const uint8_t *)pool->key_codes + place * size;
        OF_WIDTH(bits, FOR_ROWS(rows, packed_logits(queries, R, codes, B, low, step, dim, scaled, logits)));
        take_logits(state, logits, rows, BLOCK, softcap, out, dim);
        OF_WIDTH(bits, reorder(logits, rows, B));
        low = widened_or_there((const void *)pool->value_low, dtype, at, dim, scaled);
        by_part(low, parts, low_space);
        step = widened_or_there((const void *)pool->value_step, dtype, at, dim, scaled);
        by_part(step, parts, step_space);
        codes = (const uint8_t *)pool->value_codes + place * size;
        OF_WIDTH(bits, FOR_ROWS(rows, packed_values(logits, R, codes, B, low_space, step_space, dim, scaled, out)));
    }
    OF_WIDTH(bits, reorder(out, rows * parts, B));
}

INLINE float number(const uint8_t *codes, int64_t i, int bits) {
    const int per_byte = 8 / bits;
    return (codes[i / per_byte] >> (i % per_byte * bits)) & ((1 << bits) - 1);
}

/* Groups of any size: each block of tokens is unpacked for itself. */
static void attend_groups(
    const pool_of *pool, const int64_t *places, int64_t groups, int64_t group, int64_t channels, const float *queries,
    int rows, int64_t dim, int dtype, float softcap, float *scratch, float *logits, row_state *state, float *out
) {
    const int bits = (int)pool->bits, per_byte = 8 / bits;
    const int64_t parts = dim / channels, stride = padded(dim);
    const int64_t key_bytes = (group + per_byte - 1) / per_byte, value_bytes = (channels + per_byte - 1) / per_byte;
    float *tokens = scratch, *low = tokens + BLOCK * stride, *step = low + BLOCK * stride;
    for (int64_t i = 0; i < groups; i++) {
        const uint8_t *keys = (const uint8_t *)pool->key_codes + places[i] * dim * key_bytes;
        const uint8_t *values = (const uint8_t *)pool->value_codes + places[i] * group * parts * value_bytes;
        for (int64_t first = 0; first < group; first += BLOCK) {
            const int count = group - first < BLOCK ? (int)(group - first) : BLOCK;
            widen((const void *)pool->key_low, dtype, places[i] * dim, dim, low);
            widen((const void *)pool->key_step, dtype, places[i] * dim, dim, step);
            for (int64_t d = 0; d < dim; d++)
                for (int t = 0; t < count; t++)
                    tokens[t * stride + d] = number(keys + d * key_bytes, first + t, bits) * step[d] + low[d];
            FOR_ROWS(rows, dense_rows(queries, R, tokens, count, stride, logits));
            take_logits(state, logits, rows, count, softcap, out, stride);
            widen((const void *)pool->value_low, dtype, (places[i] * group + first) * parts, count * parts, low);
            widen((const void *)pool->value_step, dtype, (places[i] * group + first) * parts, count * parts, step);
            for (int t = 0; t < count; t++)
                for (int64_t d = 0; d < dim; d++) {
                    const int64_t part = t * parts + d / channels;
                    const uint8_t *codes = values + (first * parts + part) * value_bytes;
                    tokens[t * stride + d] = number(codes, d % channels, bits) * step[part] + low[part];
                }
            FOR_ROWS(rows, dense_values(logits, R, tokens, count, stride, out));
        }
    }
}

typedef struct {
    const float *queries;
    int64_t segments, rows, dim;
    int dtype;
    char *keys, *values;
    const int64_t *starts;
    int64_t *lengths;
    const char *new_keys, *new_values;
    const pool_of *pools;
    int64_t num_pools, group, channels;
    float scaling, softcap;
    float *out, *lse;
    atomic_long next;
    atomic_int failed;
} call;

static void segment(const call *c, int64_t s, const int64_t *before, float *scratch) {
    const int64_t dim = c->dim, stride = padded(dim);
    float *mine = scratch + 3 * BLOCK * stride, *sums = mine + 8 * stride, *logits = sums + 8 * stride;
    if (c->new_keys) {
        const int64_t bytes = dim * (c->dtype == FLOAT32 ? 4 : 2), slot = c->starts[s] + c->lengths[s]++;
        memcpy(c->keys + slot * bytes, c->new_keys + s * bytes, bytes);
        memcpy(c->values + slot * bytes, c->new_values + s * bytes, bytes);
    }
    for (int64_t row = 0; row < c->rows; row += 8) {
        const int rows = c->rows - row < 8 ? (int)(c->rows - row) : 8;
        const int64_t at = s * c->rows + row;
        row_state state[8];
        memset(sums, 0, 8 * stride * sizeof *sums);
        for (int r = 0; r < rows; r++) {
            state[r] = (row_state){-INFINITY, 0};
            for (int64_t d = 0; d < dim; d++) mine[r * stride + d] = c->queries[(at + r) * dim + d] * c->scaling;
        }
        for (int64_t p = 0; p < c->num_pools; p++) {
            const pool_of *pool = c->pools + p;
            const int64_t groups = ((const int64_t *)pool->counts)[s], *places = (const int64_t *)pool->places + before[p];
            if (groups && c->group == 32 && c->channels == 32 && dim <= WIDEST)
                attend_groups_of_32(
                    pool, places, groups, mine, rows, dim, c->dtype, c->softcap, scratch, logits, state, sums
                );
            else if (groups)
                attend_groups(
                    pool, places, groups, c->group, c->channels, mine, rows, dim, c->dtype, c->softcap, scratch, logits,
                    state, sums
                );
        }
        attend_dense(
            mine, rows, c->keys, c->values, c->dtype, c->starts[s], c->lengths[s], dim, c->softcap, scratch, logits,
            state, sums
        );
        finish(state, rows, sums, dim, c->out + at * dim, c->lse + at);
    }
}

/* One thread: segments as they come, in ascending order. */
static void work(void *argument) {
    call *c = argument;
    const int64_t stride = padded(c->dim);
    int64_t *before = calloc(c->num_pools + 1, sizeof *before), passed = 0; /* groups of segments below `passed` */
    float *scratch = calloc((3 * BLOCK + 2 * 8) * stride + 8 * BLOCK, sizeof *scratch);
    if (!before || !scratch) atomic_store(&c->failed, 1);
    for (int64_t s; before && scratch && (s = atomic_fetch_add(&c->next, 1)) < c->segments;) {
        for (int64_t p = 0; p < c->num_pools; p++)
            for (int64_t i = passed; i < s; i++) before[p] += ((const int64_t *)c->pools[p].counts)[i];
        passed = s;
        segment(c, s, before, scratch);
    }
    free(before), free(scratch);
}

void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned) __attribute__((weak)); /* of the runtime that torch has */

/* queries [segments, rows, dim] in float32; residual: keys, values [slots, dim] of `dtype`, starts and lengths
   [segments], and new_keys, new_values [segments, dim], or none, which are stored first; pools: each segment has groups
   in one of them at most. group: tokens; channels: of a value's part; softcap: 0 for none. out [segments, rows, dim],
   lse [segments, rows]. Returns 0, or 1 without memory. */
int step_packed(
    const float *queries, int64_t segments, int64_t rows, int64_t dim, int64_t dtype, void *keys, void *values,
    const int64_t *starts, int64_t *lengths, const void *new_keys, const void *new_values, const pool_of *pools,
    int64_t num_pools, int64_t group, int64_t channels, float scaling, float softcap, float *out, float *lse, int threads
) {
    call c = {queries, segments, rows, dim, (int)dtype, keys, values, starts, lengths, new_keys, new_values, pools,
              num_pools, group, channels, scaling, softcap, out, lse, 0, 0};
    if (threads > 1 && segments > 1 && GOMP_parallel)
        GOMP_parallel(work, &c, (unsigned)(threads < segments ? threads : segments), 0);
    else
        work(&c);
    return atomic_load(&c.failed);
}
