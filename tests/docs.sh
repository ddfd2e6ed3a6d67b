#!/usr/bin/env bash
# docs.sh: compiles and runs what the documentation shows.
#
#   QUICK START in each header's doc block: the indented code up to the next heading. With a main()
#   it is a whole program; without, lines with # and functions that begin with "static" (up to a "}"
#   at their depth) stand before a main() made of the rest. The implementation is switched on if the
#   code does not do so itself. It must end with 0; "(compiled, not run)" in the heading spares it.
#
#   README.md: ```c blocks likewise; "```c compile" is not run, "```c fragment" not even compiled.
#   ```sh blocks must be valid sh; "```sh run" is run with the programs in PATH.
#
# Everything runs in a scratch folder of its own, within a minute.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root" || exit 1
passed=0
failed=0
skipped=0
work=$(mktemp -d "${TMPDIR:-/tmp}/fsb-docs-XXXXXX") || exit 1
trap 'rm -rf --one-file-system "$work"' EXIT # whatever is still mounted there
modules=
for m in fuse3 lmdb sqlite3 libzstd openssl; do
    pkg-config --exists $m 2>/dev/null && modules="$modules $m"
done
includes=$([ -z "$modules" ] || pkg-config --cflags-only-I $modules | sed 's/-I/-isystem /g')
cxx=$(command -v g++ || command -v clang++)
[ -n "$cxx" ] || echo "SKIP the examples as C++: there is no compiler for it"
libraries=$([ -z "$modules" ] || pkg-config --libs $modules)

quick_start() { # HEADER: the code, without its depth
    awk '/^   QUICK START/ { on = 1; next }
         on && (/^   [A-Z]/ || /\*\//) { exit }
         on { sub(/^       /, ""); print }' "$1"
}
fences() { # README.md: each block into a file $work/LINE.c, .c-fragment, .sh or .sh-run
    awk -v to="$work/" '/^```/ { if (file) { close(file); file = ""; next }
                                 kind = substr($0, 4); gsub(/ /, "-", kind)
                                 file = to NR "." (kind ? kind : "text"); printf "" > file; next }
                        file { print > file }' README.md
}
program() { # the code on stdin as a whole program
    awk -v macros="$1" '
        { line[NR] = $0; whole = whole || /^int main\(/ }
        END {
            print macros
            if (whole) { for (i = 1; i <= NR; ++i) print line[i]; exit }
            for (i = 1; i <= NR; ++i) if (line[i] ~ /^#/) { print line[i]; line[i] = "" }
            print "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>"
            for (i = 1; i <= NR; ++i) {
                if (line[i] ~ /^static .*\)$/) aside = 1
                if (!aside) continue
                print line[i]
                if (line[i] ~ /^}/) aside = 0
                line[i] = ""
            }
            print "int main(void)\n{"
            for (i = 1; i <= NR; ++i) if (line[i] != "") print line[i]
            print "    return 0;\n}"
        }'
}
# example NAME FILE.c run|compile: as a reader would compile it.
example() {
    local name=$1 file=$2 out more=-Wno-missing-field-initializers # {0} is fine in C++ too
    mkdir -p "$file.dir"
    if ! out=$(build_with "${CC:-cc}" c11 "$file" 2>&1); then
        report "$name does not compile as C11" "$out"
    elif [ -n "$cxx" ] && ! out=$(build_with $cxx c++17 "$file" $more 2>&1); then
        report "$name does not compile as C++17" "$out"
    elif [ "$3" = run ] && ! out=$(cd "$file.dir" && timeout 60 "$file.c11" 2>&1 </dev/null); then
        report "$name does not end with 0" "$out"
    else
        passed=$((passed + 1))
    fi
}
build_with() { # COMPILER STANDARD FILE FLAGS...
    local language=c
    case $2 in *++*) language=c++ ;; esac
    $1 -x $language -std="$2" -Wall -Wextra -Werror "${@:4}" -I"$root" $includes -pthread \
        -o "$3.$2" "$3" -x none -Wl,--as-needed $libraries
}
tour() { # FILE.sh-run: in a process group of its own, so that nothing of it stays behind
    local status
    (cd "$1.dir" && PATH=$root/build/bin:$PATH exec setsid timeout 60 sh -eux "$1" </dev/null) &
    wait $!
    status=$?
    fusermount3 -u "$1.dir/mnt" 2>/dev/null
    kill -- -$! 2>/dev/null
    return $status
}
report() {
    failed=$((failed + 1))
    echo "FAIL $1"
    head -n 20 <<<"$2" | sed 's/^/    /'
}

for header in fsb_*.h; do
    [ -e "$header" ] || continue
    name=${header%.h}
    quick_start "$header" >"$work/code"
    if [ ! -s "$work/code" ]; then
        report "$header has no QUICK START" ""
        continue
    fi
    macro=${name^^}_IMPLEMENTATION
    grep -qE "define (FSB_IMPLEMENTATION|$macro)" "$work/code" && macro= || macro="#define $macro"
    program "$macro" <"$work/code" >"$work/$name.c"
    how=run
    grep -q 'QUICK START.*not run' "$header" && how=compile
    example "QUICK START of $header" "$work/$name.c" $how
done

[ -e README.md ] && fences
for file in "$work"/[0-9]*.*; do
    [ -e "$file" ] || continue
    line=${file##*/}
    name="README.md, the block at line ${line%%.*}"
    case $file in
    *.c)
        program '' <"$file" >"$file.c"
        example "$name" "$file.c" run
        ;;
    *.c-compile)
        program '' <"$file" >"$file.c"
        example "$name" "$file.c" compile
        ;;
    *.sh-run)
        if [ ! -x build/bin/fsb-host ] || [ ! -x build/bin/fsb-mount ] || [ ! -w /dev/fuse ]; then
            echo "SKIP $name: it needs the programs and /dev/fuse"
            skipped=$((skipped + 1))
            continue
        fi
        mkdir "$file.dir"
        if tour "$file" >"$file.out" 2>&1; then
            passed=$((passed + 1))
        else
            report "$name does not end with 0" "$(cat "$file.out")"
        fi
        ;;
    *.sh)
        if out=$(sh -n "$file" 2>&1); then passed=$((passed + 1)); else report "$name" "$out"; fi
        ;;
    esac
done
# How long the README says that a header is; a twentieth more or less is nothing.
if out=$(sed -n 's/^| \[\(fsb_[a-z]*\.h\)\].* \([0-9.]*\) k |$/\1 \2/p' README.md |
    while read -r header said; do
        awk -v said="$said" -v header="$header" 'END {
            if (NR > said * 1050 || NR < said * 950) { print header " has " NR " lines"; exit 1 }
        }' "$header" || exit 1
    done); then
    passed=$((passed + 1))
else
    report "README.md is wrong of a header's size" "$out"
fi
# Every figure of the README is one of the report that is kept beside the benches.
if [ -e bench/report.json ] && command -v python3 >/dev/null 2>&1; then
    sed -n '/<!-- figures: /,/<!-- end of figures/p' README.md | sed '1d;$d' >"$work/figures"
    if out=$(bench/report.py --readme --from bench/report.json | diff - "$work/figures"); then
        passed=$((passed + 1))
    else
        report "README.md has other figures than bench/report.json; bench/report.py --keep" "$out"
    fi
elif [ -e bench/report.json ]; then
    echo "SKIP the README's figures: there is no python3"
    skipped=$((skipped + 1))
fi
echo "docs: $passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
