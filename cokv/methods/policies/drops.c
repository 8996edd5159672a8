/* One step of a rule by attention over full heads: notes of the new token, the query's attention, the token that goes.

   Does what the rules of this folder do in torch (h2o.py, tova.py, scissorhands.py, cake.py, fastgen.py; what each means
   is said there), for heads that all hold one token more than their limit. Called from one_call.py, which checks types,
   shapes and contiguity. A row of notes per head: `columns` of positions, -1 where no token is, and as many memories.
   Attention weights are summed in float32 in the order of query heads. Knows nothing of torch, keys or values. */

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { H2O, TOVA, SCISSORHANDS, CAKE, FASTGEN };
enum { OK = 0, NO_MEMORY = -1 }; /* a positive result is 1 + the head whose notes are wrong */

typedef struct {
    const float *weights; /* [segments, group, width] */
    const int64_t *segments;
    void *memory;
    int32_t *positions, *next;
    int64_t *holes, *lengths;
    const int64_t *kinds; /* [segments], or none */
    int64_t rule, watched, of_store, together, width, group, numbers, columns, step;
    int64_t a, b, c, d;
    double x, y;
    atomic_long turn;
    atomic_int result;
} call;

typedef struct { /* of one thread, `columns` each; keys twice */
    float *mean, *sorted;
    uint64_t *keys;
    int32_t *at;
} scratch;

static uint32_t bits_of(float number) {
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

/* Of `count` keys, ascending; what lies behind them is overwritten. */
static uint64_t *sorted_keys(uint64_t *keys, int64_t count) {
    const int64_t run = 16;
    uint64_t *from = keys, *to = keys + count;
    for (int64_t first = 0; first < count; first += run)
        for (int64_t i = first + 1; i < first + run && i < count; i++) {
            uint64_t key = from[i];
            int64_t j = i;
            for (; j > first && from[j - 1] > key; j--) from[j] = from[j - 1];
            from[j] = key;
        }
    for (int64_t size = run; size < count; size *= 2) {
        for (int64_t first = 0; first < count; first += 2 * size) {
            int64_t i = first, middle = first + size < count ? first + size : count, j = middle;
            int64_t end = first + 2 * size < count ? first + 2 * size : count;
            for (int64_t k = first; k < end; k++)
                to[k] = i < middle && (j >= end || from[i] <= from[j]) ? from[i++] : from[j++];
        }
        uint64_t *other = from;
        from = to;
        to = other;
    }
    return from;
}

/* The mean of `count` rows of weights, in each column. */
static void mean_of(const call *c, const float *weights, int64_t count, float *mean) {
    memcpy(mean, weights, 4 * (size_t)c->columns);
    for (int64_t r = 1; r < count; r++)
        for (int64_t t = 0; t < c->columns; t++) mean[t] += weights[r * c->width + t];
    for (int64_t t = 0; t < c->columns; t++) mean[t] /= (float)count;
}

/* The lowest score of a token before `end`, of equals the latest. */
static int64_t lowest(const call *c, const int32_t *positions, const float *scores, int64_t end) {
    int64_t best = -1;
    for (int64_t t = 0; t < c->columns; t++) {
        if (positions[t] < 0 || positions[t] >= end) continue;
        if (best < 0 || scores[t] < scores[best] || (scores[t] == scores[best] && positions[t] > positions[best])) best = t;
    }
    return best;
}

static int64_t h2o(const call *c, int64_t i, const float *weights, const scratch *w) {
    float *scores = (float *)c->memory + i * c->columns;
    mean_of(c, weights, c->group, w->mean);
    for (int64_t t = 0; t < c->columns; t++) scores[t] += w->mean[t];
    return lowest(c, c->positions + i * c->columns, scores, (int64_t)c->next[i] - c->a);
}

static int64_t scissorhands(const call *c, int64_t i, const float *weights, const scratch *w) {
    const int64_t history = c->a, recent = c->b, unseen = c->c, bits = c->d, query = c->step % history;
    const int64_t byte = query / (8 / bits), shift = query % (8 / bits) * bits, mask = (1 << bits) - 1;
    const int32_t *positions = c->positions + i * c->columns;
    uint8_t *memory = (uint8_t *)c->memory + i * c->columns * c->numbers;
    int64_t tokens = 0;
    for (int64_t t = 0; t < c->columns; t++) tokens += positions[t] >= 0;
    const float average = 1.0f / (float)tokens;
    for (int64_t t = 0; t < c->columns; t++) {
        int32_t counted = 0, counter;
        for (int64_t r = 0; r < c->group; r++) counted += (weights[r * c->width + t] >= average) == unseen;
        if (positions[t] < 0) continue;
        uint8_t *own = memory + t * c->numbers;
        int32_t leaving = own[byte] >> shift & mask;
        own[byte] = (uint8_t)(own[byte] + (counted - leaving) * (1 << shift));
        memcpy(&counter, own + c->numbers - 4, 4);
        counter += counted - leaving;
        memcpy(own + c->numbers - 4, &counter, 4);
        w->mean[t] = (float)(unseen ? counter : -counter);
    }
    return lowest(c, positions, w->mean, (int64_t)c->next[i] - recent);
}

static int64_t cake(const call *c, int64_t i, const float *weights, const scratch *w) {
    const int64_t window = (int64_t)c->next[i] - c->a, reach = c->b / 2;
    const int32_t *positions = c->positions + i * c->columns;
    float *memory = (float *)c->memory + i * c->columns * 2;
    int64_t count = 0;
    for (int64_t t = 0; t < c->columns; t++) count += positions[t] >= 0 && positions[t] < window;
    mean_of(c, weights, c->group, w->mean);
    for (int64_t place = 0; place < count; place++) w->at[place] = -1;
    for (int64_t t = 0; t < c->columns; t++) {
        memory[2 * t] = w->mean[t];
        if (positions[t] < 0 || positions[t] >= window) continue;
        float rank = memory[2 * t + 1];
        int64_t place = rank >= 1 && rank < (float)count ? (int64_t)rank - 1 : count - 1;
        w->at[place] = (int32_t)t;
        w->sorted[place] = w->mean[t];
    }
    for (int64_t place = 0; place < count; place++) {
        if (w->at[place] < 0) return -1; /* these are no ranks of a last drop */
        int64_t first = place > reach ? place - reach : 0, end = place + reach + 1 < count ? place + reach + 1 : count;
        float sum = 0;
        for (int64_t j = first; j < end; j++) sum += w->sorted[j];
        w->keys[place] = (uint64_t)~bits_of(sum / (float)c->b) << 32 | (uint64_t)place;
    }
    const uint64_t *ranking = sorted_keys(w->keys, count);
    int64_t last = -1;
    for (int64_t rank = 0; rank < count; rank++) {
        last = w->at[ranking[rank] & 0xFFFFFFFF];
        memory[2 * last + 1] = (float)(rank + 1);
    }
    return last;
}

static int64_t fastgen(const call *c, int64_t i, const float *weights, const scratch *w) {
    const int32_t *positions = c->positions + i * c->columns;
    const int64_t seq_len = c->next[i], frequent = (int64_t)((double)seq_len * c->x);
    const int64_t local = seq_len - (int64_t)((double)seq_len * c->y);
    float *memory = (float *)c->memory + i * c->columns * 2;
    int64_t tokens = 0, best = -1, best_tier = 0;
    uint64_t threshold = 0;
    mean_of(c, weights, c->group, w->mean);
    for (int64_t t = 0; t < c->columns; t++) {
        memory[2 * t] += w->mean[t];
        /* higher for more attention, then for an earlier position: floats that are not negative have the bits' order */
        if (positions[t] >= 0) w->keys[tokens++] = (uint64_t)bits_of(memory[2 * t]) << 32 | (uint32_t)~positions[t];
    }
    if (frequent > 0 && frequent < tokens) threshold = sorted_keys(w->keys, tokens)[tokens - frequent];
    for (int64_t t = 0; t < c->columns; t++) {
        if (positions[t] < 0) continue;
        uint64_t rank = (uint64_t)bits_of(memory[2 * t]) << 32 | (uint32_t)~positions[t];
        int64_t tier = (int64_t)memory[2 * t + 1];
        if (frequent > 0 && rank >= threshold && tier < c->a) tier = c->a;
        if (positions[t] >= local && tier < c->b) tier = c->b;
        uint64_t inside = tier == c->b ? (uint64_t)positions[t] : rank;
        if (best < 0 || tier < best_tier || (tier == best_tier && inside < w->keys[0])) {
            best = t;
            best_tier = tier;
            w->keys[0] = inside; /* the order has been used */
        }
    }
    return best;
}

/* The same column in all heads of a row. */
static int64_t tova(const call *c, int64_t first, const scratch *w) {
    float *memory = (float *)c->memory + first * c->columns;
    const float *weights = c->weights + c->segments[first] * c->group * c->width;
    mean_of(c, weights, c->together * c->group, w->mean); /* heads of a row lie one behind the other */
    for (int64_t head = 0; head < c->together; head++)
        memcpy(memory + head * c->columns, w->mean, 4 * (size_t)c->columns);
    return lowest(c, c->positions + first * c->columns, w->mean, INT64_MAX);
}

static int64_t worst(const call *c, int64_t i, const scratch *w) {
    const float *weights = c->weights + c->segments[i] * c->group * c->width;
    switch (c->rule) {
    case H2O: return h2o(c, i, weights, w);
    case TOVA: return tova(c, i, w);
    case SCISSORHANDS: return scissorhands(c, i, weights, w);
    case CAKE: return cake(c, i, weights, w);
    default: return fastgen(c, i, weights, w);
    }
}

static void begin(const call *c, int64_t i) {
    int64_t column = i * c->columns + c->holes[i];
    c->positions[column] = c->next[i]++;
    size_t size = c->numbers * (c->rule == SCISSORHANDS ? 1 : sizeof(float));
    memset((char *)c->memory + column * size, 0, size);
    if (c->kinds) ((float *)c->memory)[column * 2 + 1] = (float)c->kinds[c->segments[i]];
}

static void work(void *argument) {
    call *c = argument;
    size_t size = c->columns;
    char *space = malloc(size * (2 * sizeof(uint64_t) + 2 * sizeof(float) + sizeof(int32_t)));
    if (!space) {
        atomic_store(&c->result, NO_MEMORY);
        return;
    }
    uint64_t *keys = (uint64_t *)space;
    float *mean = (float *)(keys + 2 * size);
    scratch w = {mean, mean + size, keys, (int32_t *)(mean + 2 * size)};
    for (int64_t i; (i = atomic_fetch_add(&c->turn, c->together)) < c->watched;) {
        for (int64_t head = i; head < i + c->together; head++) begin(c, head);
        int64_t hole = worst(c, i, &w);
        if (hole < 0) {
            atomic_store(&c->result, (int)(1 + i));
            break;
        }
        for (int64_t head = i; head < i + c->together; head++) {
            c->holes[head] = hole;
            c->positions[head * c->columns + hole] = -1;
            c->lengths[c->segments[head]]--;
        }
    }
    free(space);
}

void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned) __attribute__((weak)); /* of the runtime that torch has */

int64_t cokv_drop(int64_t rule, const float *weights, const int64_t *segments, void *memory, int32_t *positions,
                  int32_t *next, int64_t *holes, int64_t *lengths, const int64_t *kinds, int64_t watched,
                  int64_t of_store, int64_t together, int64_t width, int64_t group, int64_t numbers, int64_t columns,
                  int64_t step, int64_t a, int64_t b, int64_t c_, int64_t d, double x, double y, int64_t threads) {
    call c = {weights, segments, memory, positions, next, holes, lengths, kinds, rule, watched, of_store, together,
              width, group, numbers, columns, step, a, b, c_, d, x, y, 0, OK};
    for (int64_t i = 0; i < watched; i++) /* before anything is written */
        if (segments[i] < 0 || segments[i] >= of_store || holes[i] < 0 || holes[i] >= columns ||
            (together > 1 && segments[i] != segments[i - i % together] + i % together))
            return 1 + i;
    if (threads > 1 && watched > together && GOMP_parallel && watched * columns * group > 1 << 16)
        GOMP_parallel(work, &c, (unsigned)(threads < watched ? threads : watched), 0);
    else
        work(&c);
    return atomic_load(&c.result);
}
