#!/usr/bin/env bash
# soak.sh [PART...]: the checks that take too long for make test (make soak; SOAK="PART..."). Ends
# with a tally, "N passed, N failed"; what each part said is in build/soak/.
#   SOAK_SEEDS=8        how many seeds, or turns, of what goes by seeds
#   FUZZ_SECONDS=300    for each fuzzer
#   SOAK_SCRIPTS=...    what sanitized programs run (tests/e2e_*.sh)
set -u
cd "$(dirname "$0")/.." || exit 1
jobs=${JOBS:-$(nproc)} seeds=${SOAK_SEEDS:-8} log=build/soak
all="faults coherence jitter twin cache registry session fuzz asan tsan"
total_passed=0 total_failed=0
mkdir -p $log

# run NAME COMMAND...: one program that ends with its tally; on a terminal, with the time so far.
run() {
    local name=$1 out=$log/${1//\//-} start=$SECONDS status tally passed failed pid
    shift
    "$@" >"$out" 2>&1 </dev/null &
    pid=$!
    trap 'kill $pid 2>/dev/null; wait $pid; exit 1' INT TERM HUP
    while [ -t 1 ] && kill -0 $pid 2>/dev/null; do
        printf '\r     %4d s  %-20s %.60s\033[K' $((SECONDS - start)) "$name" "$(tail -n 1 "$out")"
        sleep 1
    done
    wait $pid
    status=$?
    trap - INT TERM HUP
    tally=$(grep -aE '^[^ ]+: [0-9]+ passed, [0-9]+ failed' "$out" | tail -n 1)
    read -r passed failed _ <<<"$(tr -c '0-9\n' ' ' <<<"${tally##*: }")"
    passed=${passed:-0} failed=${failed:-0}
    { [ -z "$tally" ] || [ $status != 0 ]; } && [ "$failed" = 0 ] && failed=1
    [ -t 1 ] && printf '\r\033[K'
    printf '%-4s %4d s  %-20s %s passed, %s failed\n' \
        "$([ "$failed" = 0 ] && echo ok || echo FAIL)" $((SECONDS - start)) "$name" "$passed" "$failed"
    grep -a '^SKIP' "$out" | sed 's/^/          /'
    [ "$failed" = 0 ] || grep -aE -A 5 '^FAIL|ERROR:|WARNING: Thread|runtime error' "$out" | sed 's/^/     | /'
    ((total_passed += passed, total_failed += failed))
}
make_quietly() { ${MAKE:-make} --no-print-directory -s -j"$jobs" "$@" || exit 1; }

faults() { FSB_SOAK=1 run faults tests/e2e_faults.sh; }
coherence() {
    local seed
    for seed in $(seq "$seeds"); do
        COHERENCE_ROUNDS=10000 COHERENCE_SEED=$seed run "coherence/$seed" tests/e2e_coherence.sh
    done
}
jitter() {
    local ms
    for ms in 1 5 20; do
        COHERENCE_ROUNDS=2000 COHERENCE_SEED=$ms COHERENCE_JITTER=$ms run "jitter/$ms-ms" tests/e2e_coherence.sh
    done
}
twin() { TWIN_FIRST=1000 TWIN_SEEDS=$((seeds * 8)) TWIN_CALLS=20000 run twin tests/e2e_twin.sh; }
cache() {
    local seed
    for seed in $(seq "$seeds"); do CACHE_SEED=$seed run "cache/$seed" tests/e2e_cache.sh; done
}
registry() {
    make_quietly build/test_registry
    FSB_SOAK=1 run registry build/test_registry
}
session() {
    make_quietly build/test_session build/test_session_crash
    FSB_SOAK=1 run session build/test_session
    FSB_SOAK=1 run session_crash build/test_session_crash
}
fuzz() {
    local name
    for name in $(cd tests && ls fuzz_*.c | sed 's/fuzz_\(.*\).c/\1/'); do
        run "fuzz/$name" bash -c "${MAKE:-make} --no-print-directory fuzz FUZZ=$name \
            FUZZ_SECONDS=${FUZZ_SECONDS:-300} && echo 'fuzz: 1 passed, 0 failed'"
    done
}

# The end-to-end tests with sanitized programs. These leave their reports in a folder: they are
# daemons, who would see them? A process that gave up ptrace cannot look for its leaks.
sanitized() { # VARIANT
    local bin=$PWD/build/$1/sanitized name script
    make_quietly build/"$1"/bin/fsb build/"$1"/bin/fsb-host build/"$1"/bin/fsb-mount
    rm -rf "$bin"
    mkdir -p "$bin/reports"
    ln -s ../bin/fsb ../bin/fsb-mount "$bin/"
    printf '#!/bin/sh\nexec "%s" --no-sandbox "$@"\n' "$PWD/build/$1/bin/fsb-host" >"$bin/fsb-host"
    chmod +x "$bin/fsb-host"
    export ASAN_OPTIONS=log_path=$bin/reports/asan:detect_stack_use_after_return=1:strict_string_checks=1
    export LSAN_OPTIONS=suppressions=$PWD/tests/lsan.supp:print_suppressions=0
    export UBSAN_OPTIONS=print_stacktrace=1:log_path=$bin/reports/ubsan
    export TSAN_OPTIONS=log_path=$bin/reports/tsan:second_deadlock_stack=1
    local fixed=
    [ "$1" = tsan ] && [ "$(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null || echo 0)" -gt 28 ] &&
        fixed="setarch -R"
    for script in ${SOAK_SCRIPTS:-tests/e2e_*.sh}; do
        name=$(basename "$script" .sh)
        TWIN_SEEDS=2 HOST_KB=4000000 FSB_BIN=$bin FSB=$bin/fsb run "$1/${name#e2e_}" \
            $fixed bash -c "$script; status=\$?; cd '$bin/reports' && cat ./* 2>/dev/null && exit 1; exit \$status"
        mkdir -p "$log/$1-reports" && mv "$bin"/reports/* "$log/$1-reports" 2>/dev/null
    done
    unset ASAN_OPTIONS LSAN_OPTIONS UBSAN_OPTIONS TSAN_OPTIONS
}
asan() { sanitized asan; }
tsan() { sanitized tsan; }

for part in ${*:-$all}; do
    case " $all " in *" $part "*) ;; *) echo "soak: no part $part; there are: $all" >&2; exit 2 ;; esac
done
make_quietly tools
for part in ${*:-$all}; do $part; done
echo "$total_passed passed, $total_failed failed"
[ $total_failed = 0 ]
