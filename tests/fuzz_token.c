/* fuzz_token.c - the fuzzer of tokens and of their file (make fuzz); see fuzz_token.h. */
#include "fuzz_token.h"
