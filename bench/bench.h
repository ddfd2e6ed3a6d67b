/* bench.h - what every bench shares: options, a clock, medians, and one way to print a row.

       bench_begin("mount", argc, argv);                 // --quick, --json, --case PART
       double t[5]; ...                                  // runs, ours and theirs in turn
       bench_row("stat", ours, 5, "us", "sshfs", theirs, 5, BENCH_LESS, "cold");

   A row is the median of n runs; the ratio is ours to theirs, above 1 meaning that ours is better;
   the spread is (largest - smallest) / median of ours; of latencies, from the 5th to the 95th of a
   hundred. --json prints one object a line; --case prints only the rows whose names have that PART,
   and what asks bench_wanted() leaves out the work for the others. */
#ifndef FSB_BENCH_H
#define FSB_BENCH_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef enum bench_better { BENCH_LESS, BENCH_MORE } bench_better; /* which values are good ones */

static struct {
    const char *name, *only; /* only: --case */
    int         quick, json;
} bench_;

static inline void bench_begin(const char *name, int argc, char **argv)
{
    bench_.name = name;
    for (int i = 1; i < argc; ++i) {
        if (strcmp(argv[i], "--quick") == 0) bench_.quick = 1;
        else if (strcmp(argv[i], "--json") == 0) bench_.json = 1;
        else if (strcmp(argv[i], "--case") == 0 && argv[i + 1]) bench_.only = argv[++i];
        else {
            fprintf(stderr, "usage: %s [--quick] [--json] [--case PART]\n", argv[0]);
            exit(strcmp(argv[i], "--help") == 0 ? 0 : 2);
        }
    }
}

static inline int bench_wanted(const char *which)
{
    return !bench_.only || strstr(which, bench_.only);
}

static inline double bench_now(void) /* seconds */
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline int bench_by_value_(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline double bench_median(const double *values, int n)
{
    double sorted[1024];
    if (n < 1 || n > 1024) return 0;
    memcpy(sorted, values, (size_t)n * sizeof *values);
    qsort(sorted, (size_t)n, sizeof *sorted, bench_by_value_);
    return (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
}

static inline double bench_spread(const double *values, int n)
{
    double       least = values[0], most = values[0];
    const double middle = bench_median(values, n);
    for (int i = 1; i < n; ++i) {
        if (values[i] < least) least = values[i];
        if (values[i] > most) most = values[i];
    }
    return middle > 0 ? (most - least) / middle : 0;
}

/* theirs 0: nothing was measured beside it. `more` goes into the object, before its brace. */
static inline void bench_print_(const char *which, double ours, double spread, int n,
                                const char *unit, const char *against, double theirs,
                                bench_better better, const char *note, const char *more)
{
    const double ratio =
        ours > 0 && theirs > 0 ? (better == BENCH_MORE ? ours / theirs : theirs / ours) : 0;
    if (!bench_wanted(which)) return;
    if (bench_.json) {
        printf(
            "{\"bench\":\"%s\",\"case\":\"%s\",\"value\":%.6g,\"unit\":\"%s\",\"against\":\"%s\","
            "\"theirs\":%.6g,\"ratio\":%.4g,\"spread\":%.3g,\"n\":%d,\"note\":\"%s\"%s}\n",
            bench_.name, which, ours, unit, against, theirs, ratio, spread, n, note,
            more);
    } else if (against[0]) {
        printf("%-34s %10.4g %-8s %10.4g %-18s x%-7.3g +-%3.0f%%  %s\n", which, ours, unit, theirs,
               against, ratio, 50 * spread, note);
    } else {
        printf("%-34s %10.4g %-8s %10s %-18s  %-7s +-%3.0f%%  %s\n", which, ours, unit, "", "", "",
               50 * spread, note);
    }
    fflush(stdout);
}

/* One value, of n measurements; theirs 0: nothing was measured beside it. */
static inline void bench_value(const char *which, double ours, double spread, int n,
                               const char *unit, const char *against, double theirs,
                               bench_better better, const char *note)
{
    bench_print_(which, ours, spread, n, unit, theirs > 0 ? against : "", theirs, better, note, "");
}

/* theirs NULL: nothing was measured beside it. */
static inline void bench_row(const char *which, const double *ours, int n, const char *unit,
                             const char *against, const double *theirs, int m, bench_better better,
                             const char *note)
{
    bench_value(which, bench_median(ours, n), bench_spread(ours, n), n, unit, against,
                theirs ? bench_median(theirs, m) : 0, better, note);
}

enum { BENCH_QUANTILES_ = 41, BENCH_QUANTILES_SIZE_ = BENCH_QUANTILES_ * 16 + 160 };

/* Sorts the values; returns the end of what it wrote. */
static inline char *bench_quantiles_(char *text, const char *whose, double *values, int n)
{
    char *const end = text + BENCH_QUANTILES_SIZE_;
    qsort(values, (size_t)n, sizeof *values, bench_by_value_);
    text += snprintf(text, (size_t)(end - text),
                     ",\"%sp95\":%.6g,\"%sp99\":%.6g,\"%smax\":%.6g,\"%squantiles\":[", whose,
                     values[(n - 1) * 95 / 100], whose, values[(n - 1) * 99 / 100], whose,
                     values[n - 1], whose);
    for (int i = 0; i < BENCH_QUANTILES_; ++i)
        text += snprintf(text, (size_t)(end - text), "%s%.6g", i ? "," : "",
                         values[(size_t)(n - 1) * (size_t)i / (BENCH_QUANTILES_ - 1)]);
    return text + snprintf(text, (size_t)(end - text), "]");
}

/* Sorts ours and theirs (NULL: nothing was measured beside it); n and m at least 1, else nothing is
   printed. */
static inline void bench_latencies(const char *which, double *ours, int n, const char *unit,
                                   const char *against, double *theirs, int m, const char *note)
{
    char more[2 * BENCH_QUANTILES_SIZE_];
    if (n < 1 || (theirs && m < 1)) return;
    char *end = bench_quantiles_(more, "", ours, n);
    if (theirs) bench_quantiles_(end, "their_", theirs, m);
    const double spread = (ours[(n - 1) * 95 / 100] - ours[(n - 1) * 5 / 100]) / ours[n / 2];
    bench_print_(which, ours[n / 2], spread, n, unit,
                 theirs ? against : "", theirs ? theirs[m / 2] : 0, BENCH_LESS, note, more);
}
#endif
