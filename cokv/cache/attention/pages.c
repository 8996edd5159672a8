/* A decode step over pages of which a few are at hand: the new token is stored, pages are ranked by their digests, those
   that are wanted and missing are copied from the pool, and all that is then there is attended.

   Places and page numbers are those of storage/recalled.py, whose rules these are; the scores are those of
   policies/recall.py. All memory is the CPU's. */

#include <stdatomic.h>
#include <stdlib.h>

#include "online_softmax.h"

typedef struct {
    const float *queries;                /* [segments, rows, dim] */
    const char *new_keys, *new_values;   /* [segments, dim] */
    char *keys, *values;                 /* [stretches * slots, dim] */
    const int64_t *stretches, *counts;   /* [segments] */
    int64_t *filled, *numbers;           /* [segments], [segments, places] */
    const void *low, *high;              /* [stretches, wide, dim] */
    const char *pool;                    /* [pages, 2, page, dim] */
    const int64_t *index;                /* [segments, index_wide] */
    float *out, *lse;                    /* [segments, rows, dim], [segments, rows] */
    int64_t segments, rows, dim, dtype, wide, index_wide, page, slots, places;
    float scaling, softcap;
    atomic_long next;
    atomic_int failed;
} call;

typedef struct { /* of one thread */
    float *tokens, *queries, *sums, *logits, *up, *down, *scores;
    int64_t *ranked, *wanted;
} scratch_of;

INLINE int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

/* Adds of the queries what is positive to `up`, and what is negative to `down`: a page's score is high . up + low . down. */
static void split_queries(const call *c, int64_t s, float *up, float *down) {
    memset(up, 0, padded(c->dim) * sizeof *up), memset(down, 0, padded(c->dim) * sizeof *down);
    for (int64_t r = 0; r < c->rows; r++)
        for (int64_t d = 0; d < c->dim; d++) {
            const float q = c->queries[(s * c->rows + r) * c->dim + d];
            up[d] += q > 0 ? q : 0, down[d] += q < 0 ? q : 0;
        }
}

/* The `most` pages with the highest scores, highest first and of equals the lower, into w->ranked; there are as many. */
static void rank(const call *c, int64_t s, int64_t most, const scratch_of *w) {
    const int64_t count = c->counts[s], dim = c->dim, stride = padded(dim), first = c->stretches[s] * c->wide;
    int64_t found = 0;
    if (!most) return;
    split_queries(c, s, w->up, w->down);
    for (int64_t i = 0; i < count; i++) {
        float score = INFINITY;
        if (i > 0 && i < count - 1) {
            floats total = all(0);
            widen(c->high, (int)c->dtype, (first + i) * dim, dim, w->tokens);
            widen(c->low, (int)c->dtype, (first + i) * dim, dim, w->tokens + stride);
            for (int64_t d = 0; d < dim; d += LANES)
                total += load(w->tokens + d) * load(w->up + d) + load(w->tokens + stride + d) * load(w->down + d);
            score = sum(total);
            if (score != score) score = INFINITY; /* as a sort has it */
        }
        if (found == most && !(score > w->scores[most - 1])) continue;
        int64_t place = found < most ? found++ : most - 1;
        for (; place > 0 && w->scores[place - 1] < score; place--)
            w->scores[place] = w->scores[place - 1], w->ranked[place] = w->ranked[place - 1];
        w->scores[place] = score, w->ranked[place] = i;
    }
}

INLINE int has(const int64_t *numbers, int64_t count, int64_t number) {
    for (int64_t i = 0; i < count; i++)
        if (numbers[i] == number) return 1;
    return 0;
}

/* Brings a page to a place, but for the tokens where the newest page lies. */
static void bring(const call *c, int64_t s, int64_t place, int64_t number) {
    const int64_t bytes = c->dim * (c->dtype == FLOAT32 ? 4 : 2), first = c->slots - (place + 1) * c->page;
    const int64_t covered = c->filled[s] > first ? c->filled[s] - first : 0;
    const int64_t slot = c->stretches[s] * c->slots + first + covered;
    const char *from = c->pool + (c->index[s * c->index_wide + number] * 2 * c->page + covered) * bytes;
    memcpy(c->keys + slot * bytes, from, (c->page - covered) * bytes);
    memcpy(c->values + slot * bytes, from + c->page * bytes, (c->page - covered) * bytes);
}

/* How many tokens at the end of the stretch are attended, once the pages are there. */
static int64_t recall(const call *c, int64_t s, const scratch_of *w) {
    const int64_t free = c->slots - c->filled[s], whole = at_most(c->counts[s], free / c->page);
    const int64_t rest = c->counts[s] > whole ? free % c->page : 0, some = whole + (rest > 0);
    int64_t *numbers = c->numbers + s * c->places, next = 0;
    rank(c, s, some, w);
    for (int64_t place = 0; place < c->places; place++) {
        int64_t wanted = numbers[place];
        if (place >= some)
            wanted = -1;
        else if (place == whole)
            wanted = w->ranked[place];
        else if (!has(w->ranked, whole, wanted)) {
            while (has(numbers, whole, w->ranked[next])) next++;
            wanted = w->ranked[next++];
        }
        w->wanted[place] = wanted;
    }
    for (int64_t place = 0; place < c->places; place++) {
        if (w->wanted[place] >= 0 && w->wanted[place] != numbers[place]) bring(c, s, place, w->wanted[place]);
        numbers[place] = w->wanted[place];
    }
    return whole * c->page + rest;
}

static void segment(const call *c, int64_t s, const scratch_of *w) {
    const int64_t dim = c->dim, stride = padded(dim), start = c->stretches[s] * c->slots;
    const int64_t bytes = dim * (c->dtype == FLOAT32 ? 4 : 2), slot = start + c->filled[s];
    memcpy(c->keys + slot * bytes, c->new_keys + s * bytes, bytes);
    memcpy(c->values + slot * bytes, c->new_values + s * bytes, bytes);
    const int64_t filled = ++c->filled[s], recalled = recall(c, s, w);
    for (int64_t row = 0; row < c->rows; row += 8) {
        const int rows = (int)at_most(c->rows - row, 8);
        const int64_t at = s * c->rows + row;
        row_state state[8];
        memset(w->sums, 0, 8 * stride * sizeof *w->sums);
        for (int r = 0; r < rows; r++) {
            state[r] = (row_state){-INFINITY, 0};
            for (int64_t d = 0; d < dim; d++) w->queries[r * stride + d] = c->queries[(at + r) * dim + d] * c->scaling;
        }
        attend_dense(
            w->queries, rows, c->keys, c->values, (int)c->dtype, start + c->slots - recalled, recalled, dim, c->softcap,
            w->tokens, w->logits, state, w->sums
        );
        attend_dense(
            w->queries, rows, c->keys, c->values, (int)c->dtype, start, filled, dim, c->softcap, w->tokens, w->logits,
            state, w->sums
        );
        finish(state, rows, w->sums, dim, c->out + at * dim, c->lse + at);
    }
}

static void work(void *argument) {
    call *c = argument;
    const int64_t stride = padded(c->dim), places = c->places + 1;
    float *memory = calloc((BLOCK + 8 + 8 + 2) * stride + 8 * BLOCK + places, sizeof *memory);
    int64_t *lists = calloc(2 * places, sizeof *lists);
    if (!memory || !lists) atomic_store(&c->failed, 1);
    scratch_of w = {.tokens = memory, .ranked = lists, .wanted = lists + places};
    w.queries = w.tokens + BLOCK * stride, w.sums = w.queries + 8 * stride, w.up = w.sums + 8 * stride;
    w.down = w.up + stride, w.logits = w.down + stride, w.scores = w.logits + 8 * BLOCK;
    for (int64_t s; memory && lists && (s = atomic_fetch_add(&c->next, 1)) < c->segments;) segment(c, s, &w);
    free(memory), free(lists);
}

void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned) __attribute__((weak)); /* of the runtime that torch has */

/* See `call`. Of each segment the newest page has room for a token. Returns 0, or 1 without memory. */
int step_over_pages(
    const float *queries, const void *new_keys, const void *new_values, void *keys, void *values,
    const int64_t *stretches, const int64_t *counts, int64_t *filled, int64_t *numbers, const void *low,
    const void *high, const void *pool, const int64_t *index, float *out, float *lse, int64_t segments, int64_t rows,
    int64_t dim, int64_t dtype, int64_t wide, int64_t index_wide, int64_t page, int64_t slots, int64_t places,
    float scaling, float softcap, int threads
) {
    call c = {queries, new_keys, new_values, keys, values, stretches, counts, filled, numbers, low, high, pool, index,
              out, lse, segments, rows, dim, dtype, wide, index_wide, page, slots, places, scaling, softcap, 0, 0};
    if (threads > 1 && segments > 1 && GOMP_parallel)
        GOMP_parallel(work, &c, (unsigned)at_most(threads, segments), 0);
    else
        work(&c);
    return atomic_load(&c.failed);
}
