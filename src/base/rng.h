/* rng.h - random numbers by name: draw n of stream (seed, stream, index) is the same number on
 * every machine, in every order of work. No state is shared; a stream costs eight bytes.
 *
 * The generator is splitmix64 (Steele, Lea & Flood 2014): a counter behind a finaliser. */
#ifndef PARE_BASE_RNG_H
#define PARE_BASE_RNG_H

#include <math.h>
#include <stdint.h>

#define PARE__GOLDEN UINT64_C(0x9e3779b97f4a7c15) /* 2^64 / the golden ratio, odd */

/* splitmix64's finaliser: a bijection whose every output bit depends on every input bit. */
static inline uint64_t pare__mix64(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* What comes next of a stream. */
typedef struct pare__rng {
    uint64_t at;
} pare__rng;

/* The stream of a seed (the user's), a purpose (a constant or a hash of a name) and an index (a
 * sample, a tensor's row …). */
static inline pare__rng pare__rng_make(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint64_t key = pare__mix64(seed + PARE__GOLDEN);
    key = pare__mix64((key ^ stream) + PARE__GOLDEN);
    return (pare__rng){pare__mix64((key ^ index) + PARE__GOLDEN)};
}

static inline uint64_t pare__rng_bits(pare__rng *rng)
{
    return pare__mix64(rng->at += PARE__GOLDEN);
}

/* Uniform in [0, 1): all multiples of 2^-24, and of 2^-53. */
static inline float pare__rng_float(pare__rng *rng)
{
    return (float)(pare__rng_bits(rng) >> 40) * 0x1p-24f;
}

static inline double pare__rng_double(pare__rng *rng)
{
    return (double)(pare__rng_bits(rng) >> 11) * 0x1p-53;
}

/* Uniform in {0 … n-1}, n > 0, without bias: draws of the incomplete last run of n are drawn again.
 */
static inline uint64_t pare__rng_below(pare__rng *rng, uint64_t n)
{
    uint64_t rest = (0 - n) % n, bits; /* 2^64 mod n */
    do
        bits = pare__rng_bits(rng);
    while (bits < rest);
    return bits % n;
}

/* Normal with mean 0 and variance 1 (Box & Muller 1958, one of the pair). */
static inline double pare__rng_normal(pare__rng *rng)
{
    double radius = sqrt(-2 * log(1 - pare__rng_double(rng)));
    return radius * cos(6.283185307179586 * pare__rng_double(rng));
}

/* The logarithm of a Gamma(a, 1) sample, a > 0 (Marsaglia & Tsang 2000). A logarithm, since for a
 * small a the sample itself underflows. */
static inline double pare__rng_log_gamma(pare__rng *rng, double a)
{
    double boost = 0;
    if (a < 1) { /* Gamma(a) = Gamma(a + 1) · U^(1/a) */
        boost = log(1 - pare__rng_double(rng)) / a;
        a += 1;
    }
    double d = a - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = pare__rng_normal(rng), v = 1 + c * x;
        v = v * v * v;
        if (v > 0 && log(1 - pare__rng_double(rng)) < x * x / 2 + d - d * v + d * log(v))
            return log(d * v) + boost;
    }
}

/* Beta(a, b), a and b > 0; in [0, 1]. */
static inline double pare__rng_beta(pare__rng *rng, double a, double b)
{
    double x = pare__rng_log_gamma(rng, a), y = pare__rng_log_gamma(rng, b);
    return 1 / (1 + exp(y - x));
}

/* Where a shuffle named by key (bits of a stream) puts i: a permutation of {0 … n-1}, n > 0, whose
 * places are found one at a time, without a table. A Feistel network over an even number of bits
 * that hold n (Luby & Rackoff 1988), walked until it lands below n. */
static inline uint64_t pare__permute(uint64_t key, uint64_t n, uint64_t i)
{
    unsigned half = 4; /* with fewer bits the orders of a small n are not equally likely */
    while (half < 32 && (n - 1) >> 2 * half)
        half++;
    uint64_t mask = (UINT64_C(1) << half) - 1;
    do {
        uint64_t left = i >> half, right = i & mask;
        for (uint64_t round = 1; round <= 8; round++) {
            uint64_t f = pare__mix64(key ^ (right | round << 32)) & mask;
            uint64_t swap = left ^ f;
            left = right;
            right = swap;
        }
        i = left << half | right;
    } while (i >= n);
    return i;
}

#endif
