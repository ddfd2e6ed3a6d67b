#!/usr/bin/env bash
# lint.sh: what a compiler does not see. Each rule looks at one file and prints what breaks it.
set -u
cd "$(dirname "$0")/.." || exit 1
export LC_ALL=C.UTF-8
passed=0
failed=0

# rule NAME FILE COMMAND...: the command prints FILE:LINE: what is wrong; nothing means well.
rule() {
    local out
    out=$("${@:3}" "$2" 2>&1)
    if [ -z "$out" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $1, $2:"
        head -n 20 <<<"$out" | sed 's/^/    /'
    fi
}

# ---- [text] --------------------------------------------------------------------------------------
spaces() { grep -nP '\t|[ \r]$' "$1" | sed 's/$/ <- a tab, or blanks at the end/'; }
long_lines() { grep -nP '^.{101,}$' "$1" | sed -E 's/^([0-9]+):.*/\1: over 100 columns/'; }
machine_paths() { grep -nE '/(tmp|root|home|work)/[A-Za-z]' "$1" | grep -vE 'mktemp|TMPDIR'; }
long_functions() { # from the line that names it to its brace
    awk '/^[A-Za-z_].*\(/ { name = $0; start = NR }
         /^\{/ || /^[A-Za-z_].*\) *\{$/ { body = 1 }
         /^\}/ { n = NR - start + 1
                if (body && n > 70) print start ": " n " lines, over 70: " name
                body = 0 }' "$1"
}

# ---- [headers] -----------------------------------------------------------------------------------
blocks() { # the text that headers share is the same in all of them
    local name
    for name in common vtable; do
        grep -q "^/\* ==== fsb $name " "$1" || continue
        sed -n "\|^/\* ==== fsb $name |,\|^/\* ==== end of fsb $name |p" "$1" |
            cmp -s - "tests/blocks/$name.h" || echo "block $name differs (make blocks)"
    done
    grep -q '^/\* ==== fsb common ' "$1" || echo "block common is missing"
    case $1 in
    fsb_backend.h | fsb_pool.h | fsb_chunk.h | fsb_cache.h | fsb_mount.h)
        grep -q '^/\* ==== fsb vtable ' "$1" || echo "block vtable is missing" ;;
    esac
}
shape() { # doc block, guards, licence; no header includes another
    awk -v file="$1" '
        BEGIN { list = "QUICK START,NEEDS,OPTIONS,THREADS,MEMORY,ERRORS,DOES NOT,LICENCE,CHANGES"
                n = split(list, want, ","); next_heading = in_doc = 1
                upper = toupper(file); sub(/\.H$/, "", upper) }
        NR == 1 && index($0, "/* " file " - v") != 1 { print "1: want /* " file " - v..." }
        in_doc && next_heading <= n && index($0, "   " want[next_heading]) == 1 { ++next_heading }
        in_doc && /LICENCE .*CHANGES / && next_heading == n { ++next_heading }
        /\*\// { in_doc = 0 }
        /^#ifndef/ && $2 == upper "_H" { guard = 1 }
        /^#define/ && $2 == substr(upper, 1) "_DONE_" { done = 1 }
        !in_doc && /^ *# *include "/ { print NR ": includes another file of ours" }
        /Permission is hereby granted, free of charge/ { licence = NR }
        END { if (next_heading <= n) print "no heading " want[next_heading] ", or not there"
              if (!guard) print "no guard " upper "_H"
              if (!done) print "no guard " upper "_DONE_ around the implementation"
              if (licence < NR - 30) print "the licence is not at the end" }' "$1"
    grep -q "](${1})" README.md || echo "README.md does not list it"
}
clauses() { # each prototype, or group of them, stands below a comment with Errors: and Threads:
    awk '/^#if .*IMPLEMENTATION/ && ++parts == 2 { exit }
         /\/\*/ { comment = "" }
         /\/\*/, /\*\// { comment = comment $0 "\n" }
         /^$/ { comment = "" }
         !/^FSB_API / { next }
         { name = $0; sub(/\(.*/, "", name); sub(/.*[ *]/, "", name) }
         comment !~ /Errors:/ { print NR ": " name ": no Errors: above it" }
         comment !~ /Threads:/ { print NR ": " name ": no Threads: above it" }' "$1"
}

for file in fsb_*.h {tools,tests,bench}/*.[ch]; do
    [ -e "$file" ] || continue
    rule "long functions" "$file" long_functions
    [ "$file" = tests/test.h ] || rule "long lines" "$file" long_lines
done
for file in fsb_*.h {tools,tests,bench,tests/blocks}/*.[ch] tests/*.sh README.md .ci/run; do
    [ -e "$file" ] || continue
    rule "spaces" "$file" spaces
    rule "paths of one machine" "$file" machine_paths
done
for file in fsb_*.h; do
    [ -e "$file" ] || continue
    rule "shared blocks" "$file" blocks
    rule "shape" "$file" shape
    rule "clauses" "$file" clauses
done
echo "lint: $passed passed, $failed failed"
[ $failed = 0 ]
