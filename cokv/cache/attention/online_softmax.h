/* Softmax attention that reads its tokens once: what packed.c and pages.c share.

   A few queries ("rows") of one segment go over blocks of BLOCK tokens. Of each row there are the largest logit so far,
   the sum of exponentials relative to it, and the sum of values weighted by these. All in float32, whatever is stored.
   Vectors are GCC's and Clang's, of 16 numbers; narrower machines take them in parts. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define LANES 16
#define BLOCK 32

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint8_t bytes __attribute__((vector_size(LANES)));
typedef uint16_t shorts __attribute__((vector_size(2 * LANES)));

enum { FLOAT32, BFLOAT16, FLOAT16 };

INLINE floats load(const float *from) {
    floats out;
    memcpy(&out, from, sizeof out);
    return out;
}

INLINE void store(float *to, floats from) { memcpy(to, &from, sizeof from); }

INLINE floats all(float number) { return number - (floats){0}; }

INLINE floats choose(ints which, floats yes, floats no) {
    return (floats)((which & (ints)yes) | (~which & (ints)no));
}

#ifdef __AVX512F__ /* what gcc does not find by itself */
INLINE float sum(floats x) { return _mm512_reduce_add_ps((__m512)x); }
INLINE float largest(floats x) { return _mm512_reduce_max_ps((__m512)x); }
#else
INLINE float sum(floats x) {
    float parts[LANES];
    store(parts, x);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) parts[i] += parts[i + width];
    return parts[0];
}

INLINE float largest(floats x) {
    float parts[LANES];
    store(parts, x);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) parts[i] = parts[i] > parts[i + width] ? parts[i] : parts[i + width];
    return parts[0];
}
#endif

/* exp of what is not positive, within 2 units in the last place; below exp(-87) zero. */
INLINE floats exponential(floats x) {
    const floats least = all(-87.0f), magic = all(12582912.0f);
    const ints tiny = x < least;
    x = choose(tiny, least, x);
    const floats n = (x * 1.44269504f + magic) - magic;
    const floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    floats y = all(1.9875691500e-4f);
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    const ints power = (__builtin_convertvector(n, ints) + 127) << 23;
    return choose(tiny, all(0), y * (floats)power);
}

/* `count` stored numbers as float32. */
INLINE void widen(const void *from, int dtype, int64_t offset, int64_t count, float *to) {
    if (dtype == FLOAT32) {
        memcpy(to, (const float *)from + offset, 4 * count);
    } else if (dtype == BFLOAT16) {
        const uint16_t *half = (const uint16_t *)from + offset;
        for (int64_t i = 0; i < count; i++) {
            const uint32_t wide = (uint32_t)half[i] << 16;
            memcpy(to + i, &wide, 4);
        }
    } else {
        const uint16_t *half = (const uint16_t *)from + offset;
        for (int64_t i = 0; i < count; i++) {
            uint32_t wide = (uint32_t)(half[i] & 0x7FFF) << 13, sign = (uint32_t)(half[i] & 0x8000) << 16;
            float number;
            memcpy(&number, &wide, 4);
            number *= 0x1p112f; /* from one exponent's bias to the other's, subnormal numbers too */
            memcpy(&wide, &number, 4);
            wide |= sign | ((half[i] & 0x7C00) == 0x7C00 ? 0x7F800000 : 0); /* infinite, or no number */
            memcpy(to + i, &wide, 4);
        }
    }
}

/* The same, or where they lie if they are float32. */
INLINE const float *widened_or_there(const void *from, int dtype, int64_t offset, int64_t count, float *to) {
    if (dtype == FLOAT32) return (const float *)from + offset;
    widen(from, dtype, offset, count, to);
    return to;
}

/* Of each row: the largest logit, the sum, and where the weighted values are, `stride` numbers a row. */
typedef struct {
    float highest, total;
} row_state;

/* Logits [rows, BLOCK] of the next `count` tokens become weights; what the rows have is rescaled. */
INLINE void take_logits(row_state *state, float *logits, int64_t rows, int count, float softcap, float *out, int64_t stride) {
    for (int64_t r = 0; r < rows; r++) {
        float *mine = logits + r * BLOCK;
        if (softcap > 0)
            for (int i = 0; i < count; i++) mine[i] = softcap * tanhf(mine[i] / softcap);
        for (int i = count; i < BLOCK; i++) mine[i] = -INFINITY;
        floats first = load(mine), second = load(mine + LANES);
        const float highest = largest(choose(first > second, first, second));
        if (highest > state[r].highest) {
            if (state[r].total > 0) {
                const float keep = expf(state[r].highest - highest);
                state[r].total *= keep;
                for (int64_t d = 0; d < stride; d += LANES) store(out + r * stride + d, load(out + r * stride + d) * keep);
            }
            state[r].highest = highest;
        }
        first = exponential(first - state[r].highest), second = exponential(second - state[r].highest);
        store(mine, first), store(mine + LANES, second);
        state[r].total += sum(first + second);
    }
}

INLINE int64_t padded(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

/* Rows (a number that the compiler knows is best) over `count` <= BLOCK consecutive tokens as they are.
   queries [rows, stride of queries], scaled; out [rows, stride]; tokens: scratch, BLOCK rows of the wider stride. */
INLINE void dense_rows(const float *queries, int rows, const float *tokens, int count, int64_t stride, float *logits) {
    for (int t = 0; t < count; t++) {
        floats sums[8];
        for (int r = 0; r < rows; r++) sums[r] = all(0);
        for (int64_t d = 0; d < stride; d += LANES) {
            const floats k = load(tokens + t * stride + d);
            for (int r = 0; r < rows; r++) sums[r] += load(queries + r * stride + d) * k;
        }
        for (int r = 0; r < rows; r++) logits[r * BLOCK + t] = sum(sums[r]);
    }
}

INLINE void dense_values(const float *weights, int rows, const float *tokens, int count, int64_t stride, float *out) {
    for (int64_t d = 0; d < stride; d += LANES) {
        floats sums[8];
        for (int r = 0; r < rows; r++) sums[r] = load(out + r * stride + d);
        for (int t = 0; t < count; t++) {
            const floats v = load(tokens + t * stride + d);
            for (int r = 0; r < rows; r++) sums[r] += v * weights[r * BLOCK + t];
        }
        for (int r = 0; r < rows; r++) store(out + r * stride + d, sums[r]);
    }
}

/* Calls `call` with a number of rows that the compiler knows. */
#define FOR_ROWS(rows, call) \
    switch (rows) { \
        case 1: { enum { R = 1 }; call; break; } \
        case 2: { enum { R = 2 }; call; break; } \
        case 3: { enum { R = 3 }; call; break; } \
        case 4: { enum { R = 4 }; call; break; } \
        case 5: { enum { R = 5 }; call; break; } \
        case 6: { enum { R = 6 }; call; break; } \
        case 7: { enum { R = 7 }; call; break; } \
        default: { enum { R = 8 }; call; break; } \
    }

/* `count` tokens from `slot` on, `stride` numbers each: where they lie, or widened into scratch, whose rest is zero. */
INLINE const float *tokens_from(const void *from, int dtype, int64_t slot, int count, int64_t dim, float *scratch) {
    const int64_t stride = padded(dim);
    if (stride == dim) return widened_or_there(from, dtype, slot * dim, count * dim, scratch);
    for (int t = 0; t < count; t++) widen(from, dtype, (slot + t) * dim, dim, scratch + t * stride);
    return scratch;
}

/* Attention of some rows (8 at most) over a stretch of `length` tokens from slot `start` on, added to what they have. */
static void attend_dense(
    const float *queries, int rows, const void *keys, const void *values, int dtype, int64_t start, int64_t length,
    int64_t dim, float softcap, float *scratch, float *logits, row_state *state, float *out
) {
    const int64_t stride = padded(dim);
    for (int64_t first = 0; first < length; first += BLOCK) {
        const int count = length - first < BLOCK ? (int)(length - first) : BLOCK;
        const float *tokens = tokens_from(keys, dtype, start + first, count, dim, scratch);
        FOR_ROWS(rows, dense_rows(queries, R, tokens, count, stride, logits));
        take_logits(state, logits, rows, count, softcap, out, stride);
        tokens = tokens_from(values, dtype, start + first, count, dim, scratch);
        FOR_ROWS(rows, dense_values(logits, R, tokens, count, stride, out));
    }
}

/* The rows' output and log-sum-exp; without a token zeros and -inf. */
INLINE void finish(const row_state *state, int rows, const float *sums, int64_t dim, float *out, float *lse) {
    for (int r = 0; r < rows; r++) {
        const float share = state[r].total == 0 ? 0 : 1 / state[r].total;
        for (int64_t d = 0; d < dim; d++) out[r * dim + d] = sums[r * padded(dim) + d] * share;
        lse[r] = state[r].total == 0 ? -INFINITY : state[r].highest + logf(state[r].total);
    }
}
