#!/usr/bin/env bash
# dropin.sh: proves that each fsb_*.h can be dropped into anybody's program.
#
#   tests/dropin.sh            every check, every header        (HEADER...: only these)
#   tests/dropin.sh --accept   writes what the headers are now into tests/dropin/: the symbols that
#                              each may need, and the layout of the public structs. Read the diff.
#
# A check is a function check_NAME HEADER [ARGUMENTS] that prints what is wrong, and nothing if all
# is well. They run $JOBS at a time, each in a shell of its own; first those that make objects.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root" || exit 1
export LC_ALL=C
c_standards="c99 c11 c17 gnu17"
cxx_standards="c++11 c++14 c++17 c++20"
warnings="-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Werror"
c_warnings="-Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wvla"
modules="FUSE=fuse3 LMDB=lmdb SQLITE=sqlite3 ZSTD=libzstd OPENSSL=openssl SSH2=libssh2"
have() { command -v "$1" >/dev/null 2>&1; }

# ---- [sources] small programs around a header -----------------------------------------------------
macro() { local n=${1#fsb_} && n=${n%.h} && echo "FSB_${n^^}_IMPLEMENTATION"; }
once() { printf '#include "%s"\n' "$@"; }
twice() { once "$1" "$1"; }
code() { printf '#define %s\n#include "%s"\n' "$(macro "$1")" "$1"; }
code_twice() { code "$1" && once "$1"; }
declared_then_code() { once "$1" && code "$1"; }

# compile COMPILER STANDARD FLAGS...: the source comes on stdin; all warnings are errors.
compile() {
    local cc=$1 std=$2 language=c more=$c_warnings
    shift 2
    case $std in *++*) language=c++ more= ;; esac
    $cc -x $language -std="$std" $warnings $more -I. "$@" -
}
check() { compile "$@" -fsyntax-only 2>&1 | head -n 12; }

# flags MODULE=LIBRARY...: the switches with their headers; those not installed are left out.
switches_of() { grep -o 'FSB_WITH_[A-Z0-9]*' "$1" | sort -u | sed 's/FSB_WITH_//'; }
flags() {
    local m
    for m in $modules; do
        case " $* " in *" ${m%=*} "*) ;; *) continue ;; esac
        pkg-config --exists "${m#*=}" || continue
        echo "-DFSB_WITH_${m%=*}"
        pkg-config --cflags-only-I "${m#*=}" | sed 's/-I/-isystem /g'
    done
}
all_on() { flags $(switches_of "$1"); }

# The public functions: every prototype that begins with FSB_API, a name a line.
functions() {
    awk '/^FSB_API /, /[;{]/ { text = text " " $0
             if ($0 ~ /[;{]/) { if (text ~ /;[^{]*$/) { sub(/\(.*/, "", text); sub(/.*[ *]/, "", text)
                                                        print text } text = "" } }' "$1" | sort
}
# A program that calls nothing but takes the address of all of it: unknown names do not link.
caller() {
    once "$@"
    echo 'typedef void (*any)(void); static any all[] = {'
    local h
    for h in "$@"; do functions "$h" | sed 's/.*/    (any)&,/'; done
    echo '    (any)0};'
    echo 'int main(void) { unsigned n = 0; while (all[n]) ++n; return n == 0; }'
}

# ---- [rows] the numbers are those of the table at the end ------------------------------------------
check_alone() { # COMPILER STANDARD: nothing else included, and a second time does no harm
    twice "$1" | check "$2" "$3"
    code_twice "$1" | check "$2" "$3"
    declared_then_code "$1" | check "$2" "$3" -D_GNU_SOURCE
}
check_freestanding() { # declarations need no libc
    local dir
    dir=$(gcc -print-file-name=include)
    twice "$1" | check gcc c99 -ffreestanding -nostdinc -isystem "$dir"
}
check_musl() {
    code "$1" | check musl-gcc c99 -idirafter /usr/include -idirafter "/usr/include/$(gcc -dumpmachine)"
}
check_strict() { # COMPILER STANDARD: too late to ask for POSIX: one clear error, or none
    local before out
    for before in '#include <stdio.h>' "#include \"$1\""; do
        out=$( (echo "$before" && code "$1") | check "$2" "$3")
        [ -z "$out" ] && continue
        [ "$(grep -c 'error:' <<<"$out")" = 1 ] && grep -q "error:.*$1" <<<"$out" && continue
        echo "$before before it: want one #error that names $1; got"
        grep 'error:' <<<"$out"
    done
}
check_languages() { # COMPILER: C code with a C++ caller, and the reverse
    local cc=$2 s
    for s in c11 c++17; do
        caller "$1" | compile "$cc" $s -no-pie -o "$work/$1.$cc.$s.run" -x none \
            "$work/$1.$cc.$([ $s = c11 ] && echo c++17 || echo c11).o" -x "$([ $s = c11 ] && echo c || echo c++)" \
            -pthread 2>&1 | head -n 12
        "$work/$1.$cc.$s.run" || echo "$cc $s: it does not run"
    done
}
check_static() { # COMPILER STANDARD: a private copy each in two files of one program
    local name=$work/$1.$2.$3.static
    (echo '#define FSB_STATIC' && code "$1" && echo 'int other(void); int other(void) { return 0; }') |
        compile "$2" "$3" -c -o "$name.1.o" 2>&1 | head -n 12
    (echo '#define FSB_STATIC' && code "$1" && echo 'int other(void); int main(void) { return other(); }') |
        compile "$2" "$3" -c -o "$name.2.o" 2>&1 | head -n 12
    "$2" -pthread -o "$name" "$name.1.o" "$name.2.o" 2>&1 && "$name" || echo "it does not run"
    nm -g --defined-only "$name.1.o" | sed -n 's/.* \(.*fsb_.*\)/\1 is global in spite of FSB_STATIC/p'
}
check_pair() { # OTHER: both orders are two jobs
    (echo '#define FSB_IMPLEMENTATION' && once "$1" "$2") | check gcc c11
    (echo '#define FSB_IMPLEMENTATION' && once "$1" "$2") | check clang c++17
}
check_rotation() { # all headers at once, this one first
    local i all=($headers)
    while [ "${all[0]}" != "$1" ]; do all=("${all[@]:1}" "${all[0]}"); done
    (echo '#define FSB_IMPLEMENTATION' && once "${all[@]}" && once "${all[@]}") | check gcc gnu++17
    (once "${all[@]}" && echo '#define FSB_IMPLEMENTATION' && once "${all[@]}") |
        check clang c11 -D_GNU_SOURCE
}
check_together() { # STANDARD: each header's code in an object of its own, one program
    local name=$work/together.$2 objects=() h
    for h in $headers; do objects+=("$work/$h.gcc.$2.o"); done
    caller $headers | compile gcc c11 -c -o "$name.o" 2>&1 | head -n 12
    gcc -no-pie -pthread -o "$name" "$name.o" "${objects[@]}" 2>&1 | head -n 12
    "$name" || echo "it does not run"
}
check_symbols() { # OBJECT: defines exactly its public functions, no writable data, no constructor
    local object=$work/$1.$2.o
    nm -g --defined-only "$object" | awk '{ print $3 }' | sort >"$object.defined"
    functions "$1" | comm -3 "$object.defined" - |
        awk -F'\t' '$1 { print $1 " is global but no FSB_API prototype has that name" }
                    $2 { print $2 " is declared but not defined" }'
    nm "$object" | awk '$2 ~ /^[bBdDsSgGC]$/ { print $3 " is writable data (" $2 ")" }'
    readelf -SW "$object" | grep -oE '\.(init_array|ctors|tdata|tbss)[^ ]*' | sed 's/$/: a section that has no place here/'
}
check_macros() { # FLAGS: what is left defined behind it begins with FSB_
    code "$1" | gcc -x c -std=c11 -I. "${@:2}" -dD -E - | awk -v header="$1" '
        /^# [0-9]+ "/ { ours = $3 == "\"" header "\"" || $3 == "\"./" header "\""; next }
        ours && /^#define / { sub(/\(.*/, "", $2); left[$2] = 1 }
        /^#undef / { delete left[$2] }
        END { for (m in left) if (m !~ /^FSB_/ && m != "_GNU_SOURCE") print m " stays defined" }'
}
check_reserved() { # STANDARD
    code "$1" | check clang "$2" -Wreserved-identifier $(all_on "$1")
}

# What no header may call: it would end, speak for, or change the state of somebody else's program.
forbidden='abort exit quick_exit atexit _?_assert_fail __assert raise system popen perror psignal
    v?printf v?fprintf __v?f?printf_chk puts fputs fputc putc putchar _IO_putc getchar stdin stdout stderr
    getenv secure_getenv setenv putenv environ __environ setlocale signal bsd_signal chdir umask
    s?rand drand48 strtok localtime gmtime ctime asctime strerror gets tmpnam mktemp
    gethostbyname getpwnam getpwuid getgrnam getgrgid
    calloc reallocarray aligned_alloc posix_memalign memalign valloc strn?dup v?asprintf
    getline getdelim open_memstream'
# What compilers add by themselves (malloc for realloc(NULL, n): check_hook looks before they do).
given='malloc bcmp _GLOBAL_OFFSET_TABLE_ mem(cpy|move|set|cmp) strlen __stack_chk_fail __[a-z]+_chk
    __(aarch64_|cpu_|sanitizer_|popcount|udiv|umod|div|mod|tls_)[a-z0-9_]* __errno_location'
libraries='fuse_[a-z0-9_]* mdb_[a-z0-9_]* sqlite3_[a-z0-9_]* ZSTD_[A-Za-z0-9_]* libssh2_[a-z0-9_]*
    (SSL|TLS|OPENSSL|ERR|EVP|BIO|CRYPTO|RAND|X509|ASN1|HMAC)_[A-Za-z0-9_]*'
regex() { echo "^($(tr -s ' \n' '||' <<<"$*" | sed 's/|$//'))\$"; }
needed() { nm -u "$@" | awk '$1 == "U" || $1 == "w" { print $2 }' | sed 's/^__isoc[0-9]*_//; s/@.*//' | sort -u; }

check_needs() { # OBJECT: calls only what tests/dropin/HEADER.symbols lists, and nothing forbidden
    local object=$work/$1.$2.o listed=tests/dropin/$1.symbols
    needed "$object" | grep -E "$(regex "$forbidden")" | sed 's/$/ must not be used by a header/'
    [ -e "$listed" ] || { echo "$listed is missing: tests/dropin.sh --accept writes it" && return; }
    needed "$object" | grep -vE "$(regex "$given" "$libraries" "$forbidden")" |
        comm -23 - <(grep -v '^#' "$listed" | sort -u) |
        sed "s|\$| is not in $listed (tests/dropin.sh --accept adds it)|"
}
check_hook() { # realloc and free stand in one function: the default of fsb_allocator
    local object=$work/$1.hook.o
    code "$1" | compile gcc c11 -O0 -ffunction-sections -c -o "$object" $(all_on "$1") 2>&1 | head -n 12
    objdump -r "$object" | awk '
        /^RELOCATION RECORDS FOR \[\.text\./ { sub(/.*\[\.text\./, ""); sub(/\].*/, ""); where = $0 }
        { sub(/[-+]0x.*/, "", $3) }
        $3 == "malloc" { print where " calls malloc: only realloc and free, behind the hook" }
        $3 == "realloc" || $3 == "free" { if (!seen[where]++) { ++n; who = who " " where } }
        END { if (n > 1) print "realloc and free are called in" who ": only the default allocator may" }'
}
check_hostile() { # COMPILER: words that other people define; gnu11 itself adds linux and unix
    local word std
    for word in min max MIN MAX OK ERROR FAIL SUCCESS I small interface near far IN OUT TRUE FALSE \
        BOOL DELETE; do
        echo "#define $word !$word is taken!"
    done >"$work/$1.$2.h"
    once "$1" | check "$2" gnu11 -include "$work/$1.$2.h"
    once "$1" | check "$2" gnu++17 -include "$work/$1.$2.h"
    # The system's headers come first, so that only ours meets the words.
    { echo '#pragma GCC system_header'
      code "$1" | $2 -x c -std=gnu11 -I. -H -fsyntax-only - 2>&1 |
          sed -n 's|^\.\. .*/include/\([^/]*-linux-[^/]*/\)\?\(.*\)|#include <\2>|p'; } >"$work/$1.$2.system.h"
    for std in gnu11 gnu++17; do
        { once "$work/$1.$2.system.h" "$work/$1.$2.h" && code "$1"; } | check "$2" $std -D_GNU_SOURCE
    done
}
check_options() { # a switch changes the code, never a declaration; each alone, and all, compile
    local s all
    all=$(all_on "$1")
    once "$1" | gcc -x c -std=c11 -I. -E -P - >"$work/$1.off"
    once "$1" | gcc -x c -std=c11 -I. $all -DNDEBUG -E -P - | diff "$work/$1.off" - | sed 's/^/with options: /'
    for s in $(switches_of "$1"); do
        case " $modules" in *" $s="*) ;; *) echo "FSB_WITH_$s is not a switch of this project" ;; esac
        code "$1" | check gcc c11 $(flags "$s")
    done
    for s in c99 c++11 c++20; do code "$1" | check clang $s $all; done
    code "$1" | check gcc c++17 $all
}
check_levels() { # FLAGS
    code "$1" | compile gcc c11 $(all_on "$1") "${@:2}" -c -o /dev/null 2>&1 | head -n 12
}
make_object() { # COMPILER STANDARD [on]: the objects that several rows look at; -fno-pie: const stays const
    local options=
    [ "${4:-}" = on ] && options=$(all_on "$1")
    code "$1" | compile "$2" "$3" -O2 -DNDEBUG -fno-pie $options -c -o "$work/$1.$2.$3${4:+.$4}.o" 2>&1 | head -n 12
}

# ---- [layout] the public structs and constants, as people's programs were compiled with them ------
layout() {
    once $headers | clang -x c -std=c11 -I. -fsyntax-only -Xclang -fdump-record-layouts-complete - |
        awk '/Dumping AST/ { ours = 0 }
             $2 == "|" && $3 ~ /^(struct|union)$/ && $4 ~ /^fsb_/ && NF == 4 && $1 == 0 && !ours { ours = 1; name = $4; next }
             ours && /\|   [^ ]/ { type = $0; sub(/^[^|]*\| */, "", type); sub(/ [^ ]*$/, "", type)
                                   print name "." $NF, $1, type }
             ours && /sizeof=/ { gsub(/[^0-9 ]/, ""); print name, $1, "bytes" }' | sort
    local names
    names=$(once $headers | gcc -x c -std=c11 -I. -E -P - | tr '\n' ' ' | grep -oE 'enum[^;{]*\{[^}]*\}' |
        sed 's/.*{//; s/}//' | tr ',' '\n' | grep -oE '^ *FSB_[A-Z0-9_]*' | tr -d ' ' | sort -u)
    { once $headers && echo '#include <stdio.h>' && echo 'int main(void) {' &&
        printf 'printf("%%s %%lld\\n", "%s", (long long)%s);\n' $(for n in $names; do echo "$n $n"; done) && echo '}'; } |
        gcc -x c -std=c11 -I. -o "$work/constants" - && "$work/constants"
}
check_layout() {
    layout | diff tests/dropin/abi.txt - | sed -n 's/^</was  /p; s/^>/is   /p' >"$work/layout.diff"
    [ -s "$work/layout.diff" ] || return
    head -n 20 "$work/layout.diff"
    echo "programs compiled before would break: undo it, or raise FSB_VERSION and run tests/dropin.sh --accept"
}

# ---- [run] -----------------------------------------------------------------------------------------
if [ "${1:-}" = --job ]; then # ROW HEADER FUNCTION ARGUMENTS...
    out=$("$4" "$3" "${@:5}" 2>&1)
    [ -z "$out" ] || printf '%s\n' "$out" >"$work/failed/$2.$3.$$"
    exit 0
fi
plan() { echo "$*"; } # ROW HEADER FUNCTION ARGUMENTS...
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
plan_checks() {
    local h cc s other
    for h in $headers; do
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
        for other in $headers; do [ $h = $other ] || plan 5-order $h check_pair $other; done
        plan 5-order $h check_rotation
        plan 7-macros $h check_macros
        plan 7-macros $h check_macros $(all_on $h)
        have clang && for s in c11 c++17; do plan 8-reserved $h check_reserved $s; done
        plan 11-hook $h check_hook
        plan 15-levels $h check_options
        for s in -O0 '-O3 -DNDEBUG' -Os; do plan 15-levels $h check_levels $s; done
    done
    for s in c11 c++17; do plan 12-api all check_together $s; done
    have clang && plan 14-layout all check_layout
}
run_plan() { # the jobs on stdin, a few at a time
    tee -a "$work/plan" | xargs -P "${JOBS:-$(nproc)}" -L 1 bash "$0" --job
}
accept() {
    local h
    for h in $headers; do
        { echo "# What $h may call, beside its libraries (FSB_WITH_*) and what compilers add."
          needed "$work/$h".*.o | grep -vE "$(regex "$given" "$libraries" "$forbidden")"; } >tests/dropin/$h.symbols
    done
    layout >tests/dropin/abi.txt
}
tally() { # one line a row and header that failed, with what was found
    local row header passed=0 failed=0
    while read -r row header; do
        local found=("$work/failed/$row.$header".*)
        if [ ! -e "${found[0]}" ]; then
            passed=$((passed + 1))
            continue
        fi
        failed=$((failed + 1))
        echo "FAIL row ${row/-/ (}), $header, ${#found[@]} of its checks:"
        head -n 12 "${found[0]}" | sed 's/^/    /'
    done < <(awk '{ print $1, $2 }' "$work/plan" | sort -u | sort -n)
    echo "dropin: $passed passed, $failed failed, $skipped skipped"
    [ $failed = 0 ]
}

headers=$(ls fsb_*.h 2>/dev/null)
compilers=
skipped=0
for cc in gcc clang; do
    if have $cc && echo 'int x;' | $cc -x c++ -fsyntax-only - 2>/dev/null; then
        compilers="$compilers $cc"
    else
        echo "SKIP the checks with $cc: it is not installed, or not for C++"
        skipped=$((skipped + 1))
    fi
done
have musl-gcc || { echo "SKIP the checks with musl: musl-tools is not installed" && skipped=$((skipped + 1)); }
work=$(mktemp -d "${TMPDIR:-/tmp}/fsb-dropin-XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
mkdir "$work/failed"
export work headers
plan_objects | run_plan
case ${1:-} in
--accept) accept ;;
'') plan_checks | run_plan && tally ;;
*) headers=$* && plan_checks | run_plan && tally ;;
esac
