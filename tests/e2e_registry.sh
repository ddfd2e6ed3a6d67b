#!/usr/bin/env bash
# e2e_registry.sh: `fsb registry` as its users type it. Each check is a command, its exit status and
# what its output must contain.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
fsb=${FSB:-$root/build/bin/fsb}
passed=0
failed=0
if [ ! -x "$fsb" ]; then
    echo "SKIP e2e_registry: $fsb is not built"
    echo "e2e_registry: 0 passed, 0 failed, 1 skipped"
    exit 0
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/fsb-registry-XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
unset FSB_REGISTRY

# want STATUS PATTERN ARGUMENTS...: stdin is passed on; the pattern is an extended one, "" for any.
want() {
    local status=$1 pattern=$2 out got
    shift 2
    out=$(timeout 60 "$fsb" registry "$@" 2>&1)
    got=$?
    if [ $got = "$status" ] && { [ -z "$pattern" ] || grep -qE -- "$pattern" <<<"$out"; }; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL fsb registry $*: status $got, wanted $status and /$pattern/:"
        head -n 5 <<<"$out" | sed 's/^/    /'
    fi
}

want 1 'no registry is there.*init' list
want 0 '' init --index author --shards 2
want 2 'no shards' -r other init --folder --shards 2
echo 'Hello {{ name }}, {{ n }}!' >hi.txt
want 0 '' save prompts/hi 1.0.0 hi.txt --tag greet --field input.name=string \
    --field 'input.n=number = 3' --field author=ann --description 'Says hi'
want 1 'prompts/hi 1.0.0: is there already' save prompts/hi 1.0.0 hi.txt
want 1 'latest version is not "0.9.0"' save prompts/hi 1.0.1 hi.txt --if-latest 0.9.0
want 0 '' save prompts/hi 2.0.0-rc.1 - <<<'second'
want 0 '^Hello \{\{ name' get prompts/hi
want 0 '^second$' get 'prompts/hi@>=2.0.0-0'
want 0 'blake3: +[0-9a-f]{64}' get prompts/hi@1.0.0 --meta
want 0 '"tags":\["greet"\]' get prompts/hi@1.0.0 --json
want 1 'has no version 9' get prompts/hi@9
want 1 'is not there' get nobody
want 0 $'^prompts/hi\t1.0.0\tSays hi$' list
want 0 $'^prompts/hi\t2.0.0-rc.1' versions prompts/hi
want 0 'prompts/hi' query --tag greet
want 0 'prompts/hi' query --field author=ann --latest
want 0 '^Hello Bob, 3!$' render prompts/hi name=Bob
want 1 '"nme" is not declared' render prompts/hi nme=Bob
want 1 '"name" \(string\) is required' render prompts/hi
want 1 '"n" must be a number' render prompts/hi name=Bob n=three
want 0 '^1.1.0$' bump prompts/hi --minor
want 0 '^1.1.1$' bump prompts/hi --patch --description new
want 2 'major' bump prompts/hi
want 0 '' tag prompts/hi +fine -greet
want 0 'prompts/hi.1.1.1' query --tag fine
want 2 'not \+TAG' tag prompts/hi fine
want 0 'migrated 4, failed 0, mismatched 0' export out
sed -i 's/Hello/Good day/' out/prompts/hi/1.0.0.md
want 1 'migrated 0, failed 4' import out
want 0 'migrated 4, failed 0' import out --replace
want 0 '^Good day' get prompts/hi@1.0.0
want 0 '4 versions of 1 ids, 0 problems' verify
want 0 '4 versions of 1 ids, 0 problems' -r out verify
want 0 '"versions":4' stat --json
want 0 '' backup saved --compact
want 1 'is there already' backup saved
want 1 'one shard' backup -
want 0 '' -r again restore saved
want 1 'is there already' -r again restore saved
want 0 '4 versions of 1 ids, 0 problems' -r again verify
want 0 $'saved\tprompts/hi\t1.0.0' watch --all --once
want 2 'name a version' delete prompts/hi
want 0 '^1$' delete prompts/hi@1.0.0
want 0 '^3$' delete prompts/hi --all
want 0 $'deleted\tprompts/hi' watch --all --once
echo broken >out/prompts/hi/3.0.0.md
want 1 '3.0.0.md: line 1: the front matter must begin' -r out verify
want 1 'migrated 4, failed 1' import out
want 1 '3.0.0.md: line 1: .*mend or remove it' -r out backup copied
want 0 '' -r plain init --folder
want 0 '' -r plain save a 1.0.0 hi.txt
want 0 $'^a\t1.0.0' -r plain list
want 2 'has no option --replace' list --replace
want 2 "no command 'frob'" frob
want 1 'Not a directory' -r /dev/null list
want 0 'usage' --help

# what is asked for wrongly is said, not passed over
mkdir mine && echo 'no front matter' >mine/welcome.md
want 0 'mine: holds no document.*ID/VERSION.md' import mine
want 1 'nobody: is not there' versions nobody
want 2 "'author' is not K=V" query --field author
want 2 'one --tag' query --tag a --tag b
want 0 '' save notes 1.0.0 hi.txt
want 2 'one of --major' bump notes --major --minor
want 1 'notes: has no version 9;' delete notes@9
want 1 'no version frob, and that is no range' get notes@frob
want 1 'nowhere/b: No such file' backup nowhere/b
want 1 'cannot create the folder' -r nowhere/r init
want 1 'this registry itself' import registry
want 1 'a plain folder' -r plain init
want 1 'hi.txt: is no backup' -r fresh restore hi.txt
want 2 '^fsb registry: unrecognized option' --frob

# a stream into a file, and a registry out of it
want 0 '' -r single init
want 0 '' -r single save a 1.0.0 hi.txt
if "$fsb" registry -r single backup - >stream; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
want 0 '' -r unstreamed restore stream
want 0 '1 versions of 1 ids, 0 problems' -r unstreamed verify

echo "e2e_registry: $passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
