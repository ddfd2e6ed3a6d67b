/* bench_blake3.c - the [blake3] part of fsb_chunk.h at every width this CPU has, against OpenSSL's
   SHA-256 (which uses the SHA instructions where there are any) and a memcpy of the same bytes.

   All contenders take turns in one run, so that a busy machine slows all of them alike; the median
   of the turns counts, spread is (largest - smallest) / median.  Link with -lcrypto. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#define FSB_CHUNK_IMPLEMENTATION
#include "fsb_chunk.h"
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SHA256 2u /* contenders: a number of lanes, or one of these */
#define MEMCPY 3u
#define MOST   16 /* turns, contenders */

static unsigned char input[1 << 20], sink[1 << 20];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

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

static double turn(unsigned who, size_t size, double seconds) /* bytes a second */
{
    const double begin = now();
    double       end;
    size_t       count = 0, step = 1 + 65536 / size;
    do {
        for (size_t i = 0; i < step; ++i) work(who, size);
        count += step;
    } while ((end = now()) - begin < seconds);
    return (double)count * (double)size / (end - begin);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(int json, size_t size, unsigned lanes, const double *speed, int turns,
                   const char *against, double other, const char *note)
{
    const double median = speed[turns / 2], spread = (speed[turns - 1] - speed[0]) / median;
    if (json)
        printf("{\"bench\":\"blake3\",\"case\":\"%zu bytes, %u lanes\",\"value\":%.3f,"
               "\"unit\":\"GB/s\",\"against\":\"%s\",\"ratio\":%.3f,\"spread\":%.3f,\"n\":%d,"
               "\"note\":\"%s\"}\n",
               size, lanes, median * 1e-9, against, median / other, spread, turns, note);
    else
        printf("%8zu bytes  %2u lanes  %6.3f GB/s  %6.3f x %-15s %6.3f GB/s  spread %2.0f%% %s\n",
               size, lanes, median * 1e-9, median / other, against, other * 1e-9, 100 * spread,
               note);
}

static void run(size_t size, unsigned widest, int turns, double seconds, int json)
{
    unsigned who[MOST], count = 0;
    double   speed[MOST][MOST];
    who[count++] = SHA256, who[count++] = MEMCPY;
    for (unsigned lanes = 1; lanes <= widest; lanes = lanes == 1 ? 4 : 2 * lanes)
        who[count++] = lanes;
    for (unsigned i = 0; i < count; ++i) turn(who[i], size, seconds / 4); /* warm up */
    for (int t = 0; t < turns; ++t)
        for (unsigned i = 0; i < count; ++i) speed[i][t] = turn(who[i], size, seconds);
    for (unsigned i = 0; i < count; ++i)
        qsort(speed[i], (size_t)turns, sizeof(double), by_value);
    for (unsigned i = 2; i < count; ++i) {
        const char *note = who[i] == widest ? "default on this CPU" : "";
        report(json, size, who[i], speed[i], turns, "OpenSSL SHA-256", speed[0][turns / 2], note);
        if (who[i] == widest)
            report(json, size, who[i], speed[i], turns, "memcpy", speed[1][turns / 2], note);
    }
}

int main(int argc, char **argv)
{
    static const size_t sizes[] = {64, 1024, 4096, 16384, 131072, 1 << 20};
    int                 json = 0, turns = 9;
    double              seconds = 0.04;
    fsb_blake3          hasher;
    for (int i = 1; i < argc; ++i) {
        if (!strcmp(argv[i], "--json")) json = 1;
        else if (!strcmp(argv[i], "--quick")) turns = 5, seconds = 0.02;
        else return fprintf(stderr, "usage: bench_blake3 [--quick] [--json]\n"), 2;
    }
    for (size_t i = 0; i < sizeof input; ++i) input[i] = (unsigned char)(i * 2654435761u >> 13);
    fsb_blake3_init(&hasher);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; ++i)
        run(sizes[i], hasher.lanes, turns, seconds, json);
    return 0;
}
