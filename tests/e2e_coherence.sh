#!/usr/bin/env bash
# e2e_coherence.sh: what one changes, others see: on the host past the mounts, and through a second
# mount. COHERENCE_ROUNDS makes it longer than the default of 1,000; COHERENCE_JITTER=MS has every
# answer of the host wait up to so long, while others read all the time.
. "$(dirname "$0")/e2e.sh"
begin e2e_coherence
${CC:-cc} -std=gnu11 -D_GNU_SOURCE -O1 -o "$dir/coherence" tests/coherence.c || exit 1
host "$data"
jitter=${COHERENCE_JITTER:-0} rounds=${COHERENCE_ROUNDS:-1000}
if [ "$jitter" != 0 ]; then
    ${CC:-cc} -std=gnu11 -D_GNU_SOURCE -O1 -pthread -o "$dir/trouble" tests/trouble.c || exit 1
    echo "jitter $jitter" >"$dir/jitter"
    "$dir/trouble" proxy "unix:$dir/proxy" "unix:$dir/sock" "$dir/jitter" >"$dir/at" & proxy=$!
    trap 'clean_up; kill $proxy 2>/dev/null' EXIT # unmounting asks the host
    until [ -s "$dir/at" ]; do sleep 0.02; done
    url=${url/$dir\/sock/$dir\/proxy}
fi
mount_at "$dir/one"
mount_at "$dir/two"
limit=7200
check "$rounds changes of every kind show in time, every one" \
    "'$dir/coherence' '$data' '$dir/one' '$dir/two' $rounds ${COHERENCE_SEED:-1} \
        $((jitter * 20)) $((jitter > 0)) >'$dir/out'"
cat "$dir/out"
rm -rf "${data:?}/work"
mount_at "$dir/three" --read-only # no open asks there: all waits for a thread, on a busy machine
check "and where nothing can be written" \
    "'$dir/coherence' '$data' '$dir/one' '$dir/three' $((rounds / 3)) ${COHERENCE_SEED:-2} \
        $((jitter * 20 + 200)) $((jitter > 0)) >'$dir/out'"
cat "$dir/out"
finish
