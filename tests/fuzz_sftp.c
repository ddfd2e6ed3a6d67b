/* fuzz_sftp.c - the fuzzer of what SFTP servers answer (make fuzz); see fuzz_sftp.h. */
#include "fuzz_sftp.h"
