#!/usr/bin/env bash
# cross.sh: every header, and the tests that can run, on other machines and another libc (make
# cross). Foreign programs run under qemu-user, s390x for its big-endian order. It installs
# nothing: what is missing is a SKIP line with the package to install.
#
#   tests/cross.sh               all targets, all tests
#   tests/cross.sh s390x musl    these targets
#   TESTS="blake3 session" tests/cross.sh    these tests
#
# The libraries behind the FSB_WITH_* switches are not asked for: the headers are built bare. A
# program that fails is named with the end of what it said; all of it is in build/cross/.
set -u
cd "$(dirname "$0")/.." || exit 1
export LC_ALL=C
passed=0 failed=0 skipped=0
warnings="-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Werror"
warnings="$warnings -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wvla"
tests=${TESTS:-"blake3 fuzz backend chunk session registry pool cache tables"}
i386=/usr/i686-linux-gnu/lib
limit=${LIMIT:-300} # seconds that a test may take

# target NAME COMPILER RUNNER PACKAGES: the runner may be empty, or none.
targets="
aarch64|aarch64-linux-gnu-gcc|qemu-aarch64 -L /usr/aarch64-linux-gnu|gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
riscv64|riscv64-linux-gnu-gcc|qemu-riscv64 -L /usr/riscv64-linux-gnu|gcc-riscv64-linux-gnu libc6-dev-riscv64-cross qemu-user
s390x|s390x-linux-gnu-gcc|qemu-s390x -L /usr/s390x-linux-gnu|gcc-s390x-linux-gnu libc6-dev-s390x-cross qemu-user
i386|i686-linux-gnu-gcc||gcc-i686-linux-gnu libc6-dev-i386-cross
musl|musl-gcc||musl-tools
windows|x86_64-w64-mingw32-gcc|none|gcc-mingw-w64-x86-64"

have() { command -v "$1" >/dev/null 2>&1; }
pass() { passed=$((passed + 1)); }
skip() { skipped=$((skipped + 1)) && echo "SKIP $*"; }
fail() { # WHAT LOG
    failed=$((failed + 1))
    echo "FAIL $1"
    grep -E 'error|FAIL|failed|rror:' "$2" | head -n 8 | sed 's/^/     | /'
}

# What the compiler of a target needs besides. The kernel's headers are no part of musl; i386 runs
# on the machine itself, since threads hang under qemu-i386, with the libc that came along.
flags_of() {
    case $1 in
    musl) echo "-idirafter /usr/include -idirafter /usr/include/$(gcc -dumpmachine)" ;;
    i386)
        echo "-D_FILE_OFFSET_BITS=64 -D_TIME_BITS=64"
        echo "-Wl,--dynamic-linker=$i386/ld-linux.so.2 -Wl,-rpath,$i386" ;;
    esac
}

# builds TARGET COMPILER HEADER HOW: its declarations (of any machine), or all of it.
builds() {
    local name=${3%.h} log=build/cross/$1/$3.$4 source=build/cross/$1/$3.$4.c
    {
        [ "$4" = declarations ] || echo "#define ${name^^}_IMPLEMENTATION"
        echo "#include \"$3\""
    } >"$source"
    if "$2" -std=c99 $warnings $(flags_of "$1") -O1 -I. -pthread -c -o "$source.o" "$source" \
        >"$log" 2>&1; then
        pass
    else
        fail "$1: $3, $4" "$log"
    fi
}

# runs TARGET COMPILER RUNNER TEST: builds and runs one; its own tally tells how it went.
runs() {
    local program=build/cross/$1/test_$4 log=build/cross/$1/test_$4.log status tally p f s
    [ -e "tests/test_$4.c" ] || return 0
    if ! "$2" -std=c11 -D_GNU_SOURCE $(flags_of "$1") -O1 -g -I. -pthread -o "$program" \
        "tests/test_$4.c" >"$log" 2>&1; then
        fail "$1: test_$4 does not build" "$log"
        return 0
    fi
    timeout -k 10 "$limit" $3 "$program" >"$log" 2>&1 </dev/null
    status=$?
    tally=$(grep -E '^[^ ]+: [0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1)
    read -r p f s <<<"$(tr -c '0-9\n' ' ' <<<"${tally#*: }")"
    echo "     $1: ${tally:-test_$4: no tally}"
    passed=$((passed + ${p:-0})) skipped=$((skipped + ${s:-0}))
    if [ $status = 124 ]; then
        echo "it took over $limit seconds: failed" >>"$log"
    elif [ $status != 0 ] && [ -z "$tally" ]; then
        echo "it ended with status $status: failed" >>"$log"
    fi
    [ $status = 0 ] || fail "$1: test_$4" "$log"
}

target() { # NAME COMPILER RUNNER PACKAGES
    local header test
    have "$2" || { skip "$1: no $2: apt-get install $4" && return; }
    mkdir -p "build/cross/$1"
    echo "==== $1"
    for header in fsb_*.h; do
        builds "$1" "$2" "$header" declarations
        # Windows has none of the calls below the implementations: POSIX threads, openat, epoll.
        [ "$1" = windows ] || builds "$1" "$2" "$header" implementation
    done
    if [ "$3" = none ]; then
        skip "$1: the implementations need POSIX: only the declarations are built"
        return
    fi
    [ -z "$3" ] || have "${3%% *}" || { skip "$1: no ${3%% *}: apt-get install $4" && return; }
    for test in $tests; do runs "$1" "$2" "$3" "$test"; done
}

have gcc || { echo "cross: no gcc" && exit 1; }
while IFS='|' read -r name compiler runner packages; do
    [ -n "$name" ] || continue
    case " ${*:-$name} " in *" $name "*) target "$name" "$compiler" "$runner" "$packages" ;; esac
done <<<"$targets"
echo "cross: $passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
