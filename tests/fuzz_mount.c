/* fuzz_mount.c - the fuzzer of mount tables (make fuzz); see fuzz_mount.h. */
#include "fuzz_mount.h"
