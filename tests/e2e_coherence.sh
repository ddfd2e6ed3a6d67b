#!/usr/bin/env bash
# e2e_coherence.sh: what one changes, others see: on the host past the mounts, and through a second
# mount. COHERENCE_ROUNDS makes it longer than the default of 1,000.
. "$(dirname "$0")/e2e.sh"
begin e2e_coherence
${CC:-cc} -std=gnu11 -D_GNU_SOURCE -O1 -o "$dir/coherence" tests/coherence.c || exit 1
host "$data"
mount_at "$dir/one"
mount_at "$dir/two"
rounds=${COHERENCE_ROUNDS:-1000}
check "$rounds changes of every kind show in time, every one" \
    "'$dir/coherence' '$data' '$dir/one' '$dir/two' $rounds ${COHERENCE_SEED:-1} >'$dir/out'"
cat "$dir/out"
finish
