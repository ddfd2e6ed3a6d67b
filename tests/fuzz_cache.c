/* fuzz_cache.c - the fuzzer of the disk cache's files (make fuzz); see fuzz_cache.h. */
#include "fuzz_cache.h"
