/* bench_blake3.c - the [blake3] part of fsb_chunk.h at every width this CPU has, against OpenSSL's
   SHA-256 (which uses the SHA instructions where there are any) and a memcpy of the same bytes.

   All contenders take turns in one run, so that a busy machine slows all of them alike; the median
   of the turns counts, spread is (largest - smallest) / median.  Link with -lcrypto. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#define FSB_CHUNK_IMPLEMENTATION
#include "fsb_chunk.h"
#include "bench.h"
#include <openssl/evp.h>

#define SHA256 2u /* contenders: a number of lanes, or one of these */
#define MEMCPY 3u
#define MOST   16 /* turns, contenders */

static unsigned char input[1 << 20], sink[1 << 20];

static void work(unsigned who, size_t size)
{
    fsb_blake3 hasher;
    if (who == SHA256) {
        if (!EVP_Digest(input, size, sink, NULL, EVP_sha256(), NULL)) exit(1);
    } else if (who == MEMCPY) {
        memcpy(sink, input, size);
        __asm__ volatile("" : : "r"(sink) : "memory"); /* as if somebody read it */
    } else {
        fsb_blake3_init(&hasher);
        hasher.lanes = who;
        fsb_blake3_update(&hasher, input, size);
        fsb_blake3_final(&hasher, sink, 32);
    }
}

static double turn(unsigned who, size_t size, double seconds) /* GB/s */
{
    const double begin = bench_now();
    double       end;
    size_t       count = 0, step = 1 + 65536 / size;
    do {
        for (size_t i = 0; i < step; ++i) work(who, size);
        count += step;
    } while ((end = bench_now()) - begin < seconds);
    return 1e-9 * (double)count * (double)size / (end - begin);
}

static void report(size_t size, unsigned lanes, const double *speed, int turns,
                   const char *against, const double *other, const char *note)
{
    char name[64];
    snprintf(name, sizeof name, "%zu bytes, %u lanes", size, lanes);
    bench_row(name, speed, turns, "GB/s", against, other, turns, BENCH_MORE, note);
}

static void run(size_t size, unsigned widest, int turns, double seconds)
{
    unsigned who[MOST], count = 0;
    double   speed[MOST][MOST];
    who[count++] = SHA256, who[count++] = MEMCPY;
    for (unsigned lanes = 1; lanes <= widest; lanes = lanes == 1 ? 4 : 2 * lanes)
        who[count++] = lanes;
    for (unsigned i = 0; i < count; ++i) turn(who[i], size, seconds / 4); /* warm up */
    for (int t = 0; t < turns; ++t)
        for (unsigned i = 0; i < count; ++i) speed[i][t] = turn(who[i], size, seconds);
    for (unsigned i = 2; i < count; ++i) {
        const char *note = who[i] == widest ? "default on this CPU" : "";
        report(size, who[i], speed[i], turns, "OpenSSL SHA-256", speed[0], note);
        if (who[i] == widest)
            report(size, who[i], speed[i], turns, "memcpy", speed[1], note);
    }
}

int main(int argc, char **argv)
{
    static const size_t sizes[] = {64, 1024, 4096, 16384, 131072, 1 << 20};
    fsb_blake3          hasher;
    bench_begin("blake3", argc, argv);
    const int    turns = bench_.quick ? 5 : 9;
    const double seconds = bench_.quick ? 0.02 : 0.04;
    for (size_t i = 0; i < sizeof input; ++i) input[i] = (unsigned char)(i * 2654435761u >> 13);
    fsb_blake3_init(&hasher);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; ++i)
        run(sizes[i], hasher.lanes, turns, seconds);
    return 0;
}
