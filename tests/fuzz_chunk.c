/* fuzz_chunk.c - the fuzzer of the wire (make fuzz); what it does is in fuzz_chunk.h. */
#include "fuzz_chunk.h"
