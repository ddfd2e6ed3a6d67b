/* fuzz_url.c - the fuzzer of URLs and join codes (make fuzz); what it does is in fuzz_url.h. */
#include "fuzz_url.h"
