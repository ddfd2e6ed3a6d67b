#!/usr/bin/env bash
# run.sh: every check of the project (make test). A part is a program that ends with its tally,
# "NAME: N passed, N failed, N skipped"; one that dies without counts as failed. The output of
# each part is kept in build/log/. The last line is the sum of all tallies.
set -u
cd "$(dirname "$0")/.." || exit 1
export TMPDIR="${TMPDIR:-/tmp}"
export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1
export LSAN_OPTIONS=suppressions=tests/lsan.supp:print_suppressions=0
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=0:second_deadlock_stack=1
jobs=${JOBS:-$(nproc)}
limit=600 # seconds a part may take
fixed_addresses= # the thread sanitizer of older compilers cannot live with much randomness
[ "$(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null || echo 0)" -gt 28 ] && fixed_addresses="setarch -R"
rm -rf build/log
mkdir -p build/log

# part NAME COMMAND...: runs it and prints one line; if it failed, its output too.
part() {
    local name=$1 log=build/log/${1//\//-} start=$SECONDS status tally passed failed skipped
    shift
    case $name in tsan/*) set -- $fixed_addresses "$@" ;; esac
    timeout -k 10 "$limit" "$@" >"$log" 2>&1 </dev/null
    status=$?
    tally=$(grep -E '^[^ ]+: [0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1)
    read -r passed failed skipped <<<"$(tr -c '0-9\n' ' ' <<<"${tally#*: }")"
    passed=${passed:-0} failed=${failed:-0} skipped=${skipped:-0}
    # A crash, or a sanitizer's report at exit, is a failure too.
    { [ -z "$tally" ] || [ $status != 0 ]; } && [ "$failed" = 0 ] && failed=1
    echo "$passed $failed $skipped" >"$log.tally"
    local word=ok
    [ "$failed" = 0 ] || word=FAIL
    {
        printf '%-4s %4d s  %-28s %s passed, %s failed, %s skipped\n' \
            $word $((SECONDS - start)) "$name" "$passed" "$failed" "$skipped"
        grep '^SKIP' "$log" | sed 's/^/          /'
        if [ "$failed" != 0 ]; then
            tail -n 100 "$log" | sed 's/^/     | /'
            [ $status = 124 ] && echo "     | it took over $limit seconds"
            [ -z "$tally" ] && echo "     | no tally: exit status $status"
        fi
    } >"$log.shown"
    cat "$log.shown" # one write, so that parts that run at once do not mix
    rm -f "$log.shown"
}
build() { # the benches only to see that they compile
    ${MAKE:-make} --no-print-directory -k -j"$jobs" tools tests rough sanitized &&
        echo "build: 1 passed, 0 failed"
}
export -f build
export MAKE jobs

limit=1200 part build bash -c build
part dropin tests/dropin.sh
commands="tests/lint.sh tests/docs.sh"
for test in tests/test_*.c; do
    test=$(basename "$test" .c)
    commands="$commands build/$test build/asan/$test"
    case $test in test_blake3) ;; *) commands="$commands build/tsan/$test" ;; esac
done
for command in $commands; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    name=${command#tests/}
    part "${name#build/}" "$command" &
done
wait
long="work faults safe files trouble" # first, so that none of them is left alone at the end
for script in $(printf 'tests/e2e_%s.sh\n' $long | cat - <(ls tests/e2e_*.sh) | awk '!seen[$0]++'); do
    # two at once: they wait more than they work
    while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n; done
    [ -e "$script" ] && part "$(basename "$script" .sh)" "$script" &
done
wait

sum() {
    passed=0 failed=0 skipped=0
    while read -r p f s; do ((passed += p, failed += f, skipped += s)); done
    [ $skipped = 0 ] && more= || more=", $skipped skipped"
    echo "$passed passed, $failed failed$more" | tee build/log/tally
    [ $failed = 0 ]
}
cat build/log/*.tally | sum
