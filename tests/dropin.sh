#!/usr/bin/env bash
# dropin.sh: proves that each fsb_*.h can be dropped into anybody's program.
#
#   tests/dropin.sh            every check, every header
#   tests/dropin.sh HEADER...  these headers only
#   tests/dropin.sh --accept   writes down in tests/dropin/ what each header may call
#                              (HEADER.symbols) and the layout of the public structs (abi.txt).
#                              Read that diff: it is what users will feel.
#
# A check is a function check_NAME HEADER [ARGUMENTS] that prints what is wrong, and nothing if all
# is well. Each runs in a shell of its own, $JOBS at a time. A row is what one kind of check says of
# one header; plan_checks() at the end lists them.
set -u
cd "$(dirname "$0")/.." || exit 1
export LC_ALL=C
c_standards="c99 c11 c17 gnu17"
cxx_standards="c++11 c++14 c++17 c++20"
warnings="-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Werror"
c_warnings="-Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wvla"
switches="FUSE=fuse3 LMDB=lmdb SQLITE=sqlite3 ZSTD=libzstd OPENSSL=openssl"
have() { command -v "$1" >/dev/null 2>&1; }

# ---- [sources] small programs around a header ----------------------------------------------------
once() { printf '#include "%s"\n' "$@"; }
code() { printf '#define %s_IMPLEMENTATION\n' "$(basename "${1^^}" .H)" && once "$1"; }

# compile COMPILER STANDARD FLAGS...: the source comes on stdin; all warnings are errors.
compile() {
    local cc=$1 std=$2 flags=$c_warnings language=c
    case $std in *++*) language=c++ flags= ;; esac
    $cc -x $language -std="$std" $warnings $flags -I. "${@:3}" - 2>&1 | head -n 12
}
compiles() { compile "$@" -fsyntax-only; }
object() { compile "${@:2}" -c -o "$1"; } # FILE COMPILER STANDARD FLAGS...

# The switches that a header knows, and the compiler's flags to turn some on.
switches_of() { grep -o 'FSB_WITH_[A-Z0-9]*' "$1" | sort -u | sed 's/FSB_WITH_//'; }
flags() {
    local s
    for s in $switches; do
        case " $* " in *" ${s%=*} "*) ;; *) continue ;; esac
        pkg-config --exists "${s#*=}" || continue # a library that is not here: not checked
        echo "-DFSB_WITH_${s%=*}"
        pkg-config --cflags-only-I "${s#*=}" | sed 's/-I/-isystem /g'
    done
}
all_on() { flags $(switches_of "$1"); }

# The public functions: the names of all prototypes that begin with FSB_API.
functions() {
    awk '/^FSB_API /, /[;{]/ {
             text = text " " $0
             if ($0 !~ /[;{]/) next
             if (text !~ /\{/) { sub(/\(.*/, "", text); sub(/.*[ *]/, "", text); print text }
             text = ""
         }' "$1" | sort
}
# A program that takes the address of every public function: what is not there does not link.
caller() {
    local h
    once "$@"
    echo 'typedef void (*any)(void);'
    echo 'static any all[] = {'
    for h in "$@"; do functions "$h" | sed 's/.*/    (any)&,/'; done
    echo '    (any)0};'
    echo 'int main(void) { unsigned n = 0; while (all[n]) ++n; return n == 0; }'
}

# ---- [rows] --------------------------------------------------------------------------------------
make_object() { # COMPILER STANDARD [on]: what several checks look at
    local with= # -fno-pie: else tables of constants count as writable
    [ "${4:-}" = on ] && with=$(all_on "$1")
    code "$1" | object "$work/$1.$2.$3${4:+.$4}.o" "$2" "$3" -O1 -DNDEBUG -fno-pie $with
}
check_alone() { # COMPILER STANDARD: with nothing before it, and a second time without harm
    (once "$1" && once "$1") | compiles "$2" "$3"
    (code "$1" && once "$1") | compiles "$2" "$3"
    case $3 in c99 | gnu17 | c++11 | c++20) # the order has to do with no standard
        (once "$1" && code "$1") | compiles "$2" "$3" -D_GNU_SOURCE ;;
    esac
}
check_freestanding() { # its declarations need no libc
    once "$1" | compiles gcc c99 -ffreestanding -nostdinc -isystem "$(gcc -print-file-name=include)"
}
check_musl() { # the kernel's headers are not part of musl
    code "$1" | compiles musl-gcc c99 -idirafter /usr/include \
        -idirafter "/usr/include/$(gcc -print-multiarch)"
}
check_strict() { # COMPILER STANDARD: asking for POSIX too late: no error, or one that helps
    local before errors
    for before in '#include <stdio.h>' "#include \"$1\""; do
        errors=$( (echo "$before" && code "$1") | compiles "$2" "$3" | grep 'error:')
        [ -z "$errors" ] && continue
        [ "$(wc -l <<<"$errors")" = 1 ] && [[ $errors == *error:*"$1"* ]] && continue
        echo "behind $before: want one #error that names $1, and no other; got"
        echo "$errors"
    done
}
check_languages() { # COMPILER: C code with a C++ caller, and the reverse
    local program=$work/$1.$2.mixed
    caller "$1" | object "$program.c++17.o" "$2" c++17
    caller "$1" | object "$program.c11.o" "$2" c11
    link_and_run "$2" "$program.1" "$program.c++17.o" "$work/$1.$2.c11.o"
    link_and_run "$2" "$program.2" "$program.c11.o" "$work/$1.$2.c++17.o"
}
link_and_run() { # COMPILER PROGRAM OBJECTS...
    "$1" -no-pie -pthread -o "$2" "${@:3}" 2>&1 | head -n 12
    "$2" || echo "it does not run"
}
check_static() { # COMPILER STANDARD: a private copy each in two files of one program
    local name=$work/$1.$2.$3.static other='int other(void); int'
    (echo '#define FSB_STATIC' && code "$1" && echo "$other other(void) { return 0; }") |
        object "$name.1.o" "$2" "$3" -fno-pie
    (echo '#define FSB_STATIC' && code "$1" && echo "$other main(void) { return other(); }") |
        object "$name.2.o" "$2" "$3" -fno-pie
    link_and_run "$2" "$name" "$name.1.o" "$name.2.o"
    nm -g --defined-only "$name.1.o" | awk '/fsb_/ { print $3 " is global in spite of FSB_STATIC" }'
}
check_pair() { # OTHER
    (echo '#define FSB_IMPLEMENTATION' && once "$1" "$2") | compiles gcc c11
    (echo '#define FSB_IMPLEMENTATION' && once "$1" "$2") | compiles clang c++17
}
check_rotation() { # all headers in one file, this one first
    local all=($headers)
    while [ "${all[0]}" != "$1" ]; do all=("${all[@]:1}" "${all[0]}"); done
    (echo '#define FSB_IMPLEMENTATION' && once "${all[@]}" "${all[@]}") | compiles gcc gnu++17
    (once "${all[@]}" && echo '#define FSB_IMPLEMENTATION' && once "${all[@]}") |
        compiles clang c11 -D_GNU_SOURCE
}
check_together() { # STANDARD: the code of each header in an object of its own, one program
    local program=$work/together.$2 objects=() h
    for h in $headers; do objects+=("$work/$h.gcc.$2.o"); done
    caller $headers | object "$program.o" gcc c11
    link_and_run gcc "$program" "$program.o" "${objects[@]}"
}
check_symbols() { # OBJECT: defines its public functions only; no writable data, no constructor
    local object=$work/$1.$2.o
    comm -3 <(nm -g --defined-only "$object" | awk '{ print $3 }' | sort) <(functions "$1") |
        awk -F'\t' '$1 { print $1 " is global, but no prototype with FSB_API has that name" }
                    $2 { print $2 " is declared, but not defined" }'
    nm "$object" | awk '$2 ~ /^[bBdDsSgGC]$/ { print $3 " is writable data" }'
    readelf -SW "$object" | grep -oE '\.(init_array|ctors|tdata|tbss)[^ ]*' |
        sed 's/$/: such a section has no place in a header/'
}
check_macros() { # FLAGS: what it leaves defined begins with FSB_
    code "$1" | gcc -x c -std=c11 -I. "${@:2}" -dD -E - | awk -v header="$1" '
        /^# [0-9]+ "/ { sub(/"\.\//, "\"", $3); ours = $3 == "\"" header "\""; next }
        ours && /^#define / { sub(/\(.*/, "", $2); left[$2] = 1 }
        /^#undef / { delete left[$2] }
        END { for (m in left) if (m !~ /^FSB_/ && m != "_GNU_SOURCE") print m " stays defined" }'
}
check_reserved() { # STANDARD
    code "$1" | compiles clang "$2" -Wreserved-identifier $(all_on "$1")
}

# What no header may call: it ends, speaks for, or changes the state of somebody else's program, is
# not thread-safe, or takes memory past the allocator.
forbidden='abort exit quick_exit atexit __assert_fail __assert raise system popen getenv
    secure_getenv setenv putenv environ __environ setlocale signal chdir umask
    perror psignal v?printf v?fprintf __v?f?printf_chk puts fputs fputc putc putchar getchar stdin
    stdout stderr s?rand drand48 strtok localtime gmtime ctime asctime gets tmpnam mktemp
    gethostbyname getpwnam getpwuid getgrnam getgrgid
    calloc reallocarray aligned_alloc posix_memalign memalign valloc strn?dup v?asprintf getline
    getdelim open_memstream'
# What compilers add by themselves (malloc for realloc(NULL, n); check_hook looks before they do).
given='malloc bcmp mem(cpy|move|set|cmp) strlen __errno_location _GLOBAL_OFFSET_TABLE_
    __stack_chk_fail __[a-z]+_chk __(aarch64|cpu|popcount|tls)_?[a-z0-9_]*'
libraries='(fuse|mdb|sqlite3)_[a-z0-9_]* ZSTD_[A-Za-z0-9_]*
    (SSL|TLS|OPENSSL|ERR|EVP|BIO|CRYPTO|RAND|X509|ASN1|HMAC)_[A-Za-z0-9_]*'
any_of() { echo "^($(xargs <<<"$*" | tr ' ' '|'))\$"; }
needs() { nm -u "$@" | awk '$1 ~ /^[Uw]$/ { print $2 }' | sed 's/^__isoc[0-9]*_//' | sort -u; }
own_needs() { needs "$@" | grep -vE "$(any_of "$given" "$libraries" "$forbidden")"; }

check_needs() { # OBJECT: calls what tests/dropin/HEADER.symbols lists, and nothing forbidden
    local object=$work/$1.$2.o listed=tests/dropin/$1.symbols
    needs "$object" | grep -E "$(any_of "$forbidden")" | sed 's/$/ must not be used by a header/'
    if [ -e "$listed" ]; then
        comm -23 <(own_needs "$object") <(sort -u "$listed") |
            sed "s|\$| is not in $listed (tests/dropin.sh --accept adds it)|"
    else
        echo "$listed is missing (tests/dropin.sh --accept writes it)"
    fi
}
check_hook() { # FLAGS: realloc and free stand in one function: the default of fsb_allocator
    local object=$work/$1.hook$#.o
    code "$1" | object "$object" gcc c11 -O0 -ffunction-sections "${@:2}"
    objdump -r "$object" | awk -v switches=$(($# - 1)) '
        /^RELOCATION .*\[\.text\./ { sub(/.*\[\.text\./, ""); sub(/\].*/, ""); where = $0 }
        { sub(/[-+]0x.*/, "", $3) }
        $3 == "malloc" { print where " calls malloc: realloc behind the hook does that" }
        $3 == "free" && switches { next } # of memory that a library handed out
        $3 ~ /^(realloc|free)$/ && !seen[where]++ { ++n; who = who " " where }
        END { if (n > 1) print "realloc and free are called by" who ": one function may" }'
}
check_hostile() { # COMPILER: words that other people define; gnu11 itself adds linux and unix
    local word std words=$work/$1.$2.words.h system=$work/$1.$2.system.h
    for word in min max MIN MAX OK ERROR FAIL SUCCESS I small interface near far IN OUT TRUE FALSE \
        BOOL DELETE; do
        echo "#define $word !$word is taken!"
    done >"$words"
    # The system's headers come first, so that only ours meets the words.
    { echo '#pragma GCC system_header'
      code "$1" | "$2" -x c -std=gnu11 -I. -H -fsyntax-only - 2>&1 |
          sed -n 's|^\.\. .*/include/\([^/]*-linux-[^/]*/\)\?\(.*\)|#include <\2>|p'; } >"$system"
    for std in gnu11 gnu++17; do
        once "$words" "$1" | compiles "$2" $std
        (once "$system" "$words" && code "$1") | compiles "$2" $std -D_GNU_SOURCE
    done
}
check_options() { # a switch changes the code, never a declaration; each alone, and all, compile
    local s with
    with=$(all_on "$1")
    diff <(once "$1" | gcc -x c -std=c11 -I. -E -P -) \
        <(once "$1" | gcc -x c -std=c11 -I. -E -P -DNDEBUG $with -) | sed 's/^/with its switches: /'
    for s in $(switches_of "$1"); do
        case " $switches" in *" $s="*) ;; *) echo "FSB_WITH_$s is no switch of this project" ;; esac
        code "$1" | compiles gcc c11 $(flags "$s")
    done
    for s in c99 c++11 c++20; do code "$1" | compiles clang $s $with; done
    code "$1" | compiles gcc c++17 $with
}
check_levels() { # FLAGS: what only an optimiser sees
    code "$1" | object /dev/null gcc c11 $(all_on "$1") "${@:2}"
}

# ---- [layout] the public structs and constants, as people's programs were compiled with them -----
layout() {
    once $headers | clang -x c -std=c11 -I. -fsyntax-only -Xclang -fdump-record-layouts-complete - |
        awk '/^\*\*\* Dumping/ { name = "" }
             !name && NF == 4 && $3 ~ /^(struct|union)$/ && $4 ~ /^fsb_/ { name = $4; next }
             name && /\|   [^ ]/ { type = $0; sub(/^[^|]*\| */, "", type); sub(/ [^ ]*$/, "", type)
                                   print name "." $NF, "at", $1 ":", type }
             name && /sizeof=/ { gsub(/[^0-9 ]/, ""); print name, $1, "bytes" }' | sort
    local names
    names=$(once $headers | gcc -x c -std=c11 -I. -E -P - | tr '\n' ' ' |
        grep -oE 'enum[^;{]*\{[^}]*\}' | sed 's/.*{//; s/}//' | tr ',' '\n' |
        grep -oE '^ *FSB_[A-Z0-9_]*' | tr -d ' ' | sort -u)
    {
        once $headers stdio.h
        echo 'int main(void) {'
        printf 'printf("%%s = %%lld\\n", "%s", (long long)%s);\n' $(printf '%s\n' $names | sed p)
        echo '}'
    } | gcc -x c -std=c11 -I. -o "$work/constants" - && "$work/constants"
}
check_layout() {
    layout | diff tests/dropin/abi.txt - | sed -n 's/^</was  /p; s/^>/is   /p' >"$work/layout.diff"
    [ -s "$work/layout.diff" ] || return
    head -n 20 "$work/layout.diff"
    echo "What was compiled before would break: undo it, or run tests/dropin.sh --accept (and raise"
    echo "FSB_VERSION, if the last one was released). What is new is accepted in the same way."
}

# ---- [run] ---------------------------------------------------------------------------------------
if [ "${1:-}" = --job ]; then # ROW HEADER FUNCTION ARGUMENTS...
    out=$("$4" "$3" "${@:5}" 2>&1)
    [ -z "$out" ] || printf '%s\n' "$out" >"$work/failed/$2.$3.$$"
    exit 0
fi

# A job a line: ROW HEADER FUNCTION ARGUMENTS...
plan() { echo "$*"; }
plan_objects() {
    local h cc
    for h in $headers; do
        for cc in $compilers; do
            plan 0-compiles $h make_object $cc c11
            plan 0-compiles $h make_object $cc c++17
            plan 0-compiles $h make_object $cc c11 on
        done
    done
}
plan_checks() { # HEADERS...
    local h cc s
    for h; do
        for cc in $compilers; do
            for s in $c_standards $cxx_standards; do plan 1-alone $h check_alone $cc $s; done
            for s in c99 c11; do plan 2-strict $h check_strict $cc $s; done
            plan 3-languages $h check_languages $cc
            for s in c11 c++17; do plan 4-static $h check_static $cc $s; done
            for s in c11 c++17 c11.on; do
                plan 6-symbols $h check_symbols $cc.$s
                plan 9-needs $h check_needs $cc.$s
            done
            plan 10-hostile $h check_hostile $cc
        done
        plan 1-alone $h check_freestanding
        have musl-gcc && plan 1-alone $h check_musl
        for s in $headers; do [ $h = $s ] || plan 5-order $h check_pair $s; done
        plan 5-order $h check_rotation
        plan 7-macros $h check_macros
        plan 7-macros $h check_macros $(all_on $h)
        have clang && for s in c11 c++17; do plan 8-reserved $h check_reserved $s; done
        plan 11-hook $h check_hook
        plan 11-hook $h check_hook $(all_on $h)
        plan 15-levels $h check_options
        for s in -O0 '-O3 -DNDEBUG' -Os; do plan 15-levels $h check_levels $s; done
    done
    for s in c11 c++17; do plan 12-together all check_together $s; done
    have clang && plan 14-layout all check_layout
}
run_plan() { # the jobs on stdin, a few at a time
    tee -a "$work/plan" | xargs -P "${JOBS:-$(nproc)}" -L 1 bash "$0" --job
}
accept() {
    local h
    for h in $headers; do
        { echo "# What $h may call, beside its libraries (FSB_WITH_*) and what compilers add."
          own_needs "$work/$h".*.o; } >tests/dropin/$h.symbols
    done
    layout >tests/dropin/abi.txt
}
tally() { # and what the first check that failed has to say, for each row and header
    local row header failures passed=0 failed=0
    while read -r row header; do
        failures=("$work/failed/$row.$header".*)
        if [ ! -e "${failures[0]}" ]; then
            passed=$((passed + 1))
            continue
        fi
        failed=$((failed + 1))
        echo "FAIL row ${row/-/ (}), $header, ${#failures[@]} of its checks:"
        head -n 12 "${failures[0]}" | sed 's/^/    /'
    done < <(awk '{ print $1, $2 }' "$work/plan" | sort -u | sort -n)
    echo "dropin: $passed passed, $failed failed, $skipped skipped"
    [ $failed = 0 ]
}

headers=$(ls fsb_*.h 2>/dev/null)
compilers=
skipped=0
skip() { echo "SKIP $*" && skipped=$((skipped + 1)); }
for cc in gcc clang; do
    if echo 'int x;' | $cc -x c++ -fsyntax-only - 2>/dev/null; then
        compilers="$compilers $cc"
    else
        skip "the checks with $cc: it is not installed, or not for C++"
    fi
done
have musl-gcc || skip "the checks with musl: musl-tools is not installed"
work=$(mktemp -d "${TMPDIR:-/tmp}/fsb-dropin-XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
mkdir "$work/failed"
export work headers
plan_objects | run_plan
if [ "${1:-}" = --accept ]; then
    accept
else
    plan_checks ${*:-$headers} | run_plan
    tally
fi
