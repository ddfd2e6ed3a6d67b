#!/usr/bin/env bash
# Several tenants over one port: fsb token, fsb-host --tokens, a mount with a token.
. "$(dirname "$0")/e2e.sh"
begin e2e_tokens

tokens=$dir/tokens
mkdir "$dir/ann" "$dir/bob" "$dir/docs"
echo ann >"$dir/ann/file"; echo bob >"$dir/bob/file"; echo doc >"$dir/docs/doc"
if ! "$bin/fsb" token create --tokens "$tokens" --tenant ann --until 1h --rights rw --folder "$dir/ann" >"$dir/ann.token" 2>"$dir/why"; then
    grep -q 'without OpenSSL' "$dir/why" && { skip e2e_tokens "built without OpenSSL"; finish; }
    cat "$dir/why"
fi
"$bin/fsb" token create --tokens "$tokens" --tenant bob --until 1h --folder "own=$dir/bob" --folder "docs=$dir/docs" >"$dir/bob.token"
ann=$(cat "$dir/ann.token") bob=$(cat "$dir/bob.token")
printf '%s\n' "$ann" >"$dir/old.token"
export ann bob tokens bin dir mnt data

check 'the file is for its owner alone, the token tells what it is' '
    [ "$(stat -c %a "$tokens")" = 600 ] && "$bin/fsb" token show <"$dir/ann.token" | grep -q "^tenant  ann$" &&
    "$bin/fsb" token show --tokens "$tokens" "$ann" | grep -q "^it is   good$"'
check 'what is forged, cut off, or of no tenant is told' '
    case $ann in *A) f=${ann%?}B ;; *) f=${ann%?}A ;; esac
    ! "$bin/fsb" token show --tokens "$tokens" "$f" >"$dir/out"; grep -q forged "$dir/out" &&
    ! "$bin/fsb" token show "${ann%???}" && ! "$bin/fsb" token create --tokens "$tokens" --tenant eve --until 1h'
check 'wrong usage' '
    "$bin/fsb" token create --tokens "$tokens" --tenant ann; [ $? = 2 ] || exit 1
    "$bin/fsb" token create --tokens "$tokens" --tenant "a b" --until 1h; [ $? = 2 ] || exit 1
    "$bin/fsb-host" --listen "unix:$dir/no" --tokens "$tokens"; [ $? = 2 ]'

serve() {
    rm -f "$dir/urls" # those of the host before
    "$bin/fsb-host" --listen tls:127.0.0.1:0 --tokens "$tokens" --status "unix:$dir/status" "$@" >"$dir/urls" 2>>"$dir/host.log" &
    host_pid=$!
    for _ in $(seq 1000); do [ -s "$dir/urls" ] && break; sleep 0.02; done
    url=$(head -n 1 "$dir/urls") at=${url%/*}
    export url at
}
serve --allow-exec
ls_as() { "$bin/fsb" ls "$at/$1#$2"; }
export -f ls_as

check 'a URL for each tenant, without a secret' '[ "$(sed "s,.*/,," "$dir/urls" | tr "\n" " ")" = "ann bob " ] && ! grep -q "#" "$dir/urls"'
check 'each sees its own folders' '[ "$(ls_as ann "$ann")" = file ] && [ "$("$bin/fsb" cat "$at/#$ann" 2>/dev/null; "$bin/fsb" cat "$at/ann/file#$ann")" = ann ] &&
    [ "$(ls_as bob "$bob" | sort | tr "\n" " ")" = "docs own " ] && [ "$("$bin/fsb" cat "$at/bob/docs/doc#$bob")" = doc ]'
check 'and no other'\''s' '! ls_as ann "$bob" 2>/dev/null && ! ls_as bob "$ann" 2>/dev/null && ! "$bin/fsb" cat "$at/bob/../ann/file#$bob" 2>/dev/null'
check 'ro may not write, rw may' 'echo new >"$dir/new"; ! "$bin/fsb" cp "$dir/new" "$at/bob/own/new#$bob" 2>/dev/null && [ ! -e "$dir/bob/new" ] &&
    "$bin/fsb" cp "$dir/new" "$at/ann/new#$ann" && cmp "$dir/new" "$dir/ann/new"'
check 'the status has a row for each tenant' '
    "$bin/fsb" status --metrics "unix:$dir/status" >"$dir/metrics"; "$bin/fsb" status "unix:$dir/status" >"$dir/page"
    for who in ann bob; do grep -Eq "^fsb_tenant_busiest_calls_total\{tenant=\"$who\"\} [1-9]" "$dir/metrics" || exit 1; done
    grep -q "^fsb_tenant_busiest_refused_total{tenant=\"ann\"} 0$" "$dir/metrics" && grep -Eq "^  ann +[1-9]" "$dir/page"'
check 'a command, for whom the token lets run one' '
    "$bin/fsb" token create --tokens "$tokens" --tenant ann --until 1h --rights rwx >"$dir/annx.token"; annx=$(cat "$dir/annx.token")
    ! "$bin/fsb" exec "$at/ann#$ann" -- echo run 2>/dev/null && [ "$("$bin/fsb" exec "$at/ann#$annx" -- echo run)" = run ] || exit 1
    ! timeout 0.5 "$bin/fsb" exec "$at/ann#$annx" -- sleep 77777 && soon "! pgrep -f ^sleep.77777 >/dev/null"'
check 'the token from the environment' '[ "$(FSB_CODE=$ann "$bin/fsb" cat "$at/ann/file")" = ann ]'

mounted() { "$bin/fsb-mount" --timeout 20 "$@" "$mnt"; }
export -f mounted; mounts="$mounts $mnt"
check 'a mount with a token from a file' 'mounted --code-file "$dir/ann.token" "$at/ann" && [ "$(cat "$mnt/file")" = ann ] && echo mine >"$mnt/mine" && [ "$(cat "$dir/ann/mine")" = mine ]'
check 'a new tenant, while the host runs; a changed limit' '
    sed -i "s/^tenant   bob$/tenant   bob  requests=5/" "$tokens" # the host looks at it every second
    "$bin/fsb" token create --tokens "$tokens" --tenant eve --until 1h --folder "$dir/docs" >"$dir/eve.token"
    soon "[ \"\$(ls_as eve \$(cat "$dir/eve.token"))\" = doc ]" && [ "$(cat "$mnt/file")" = ann ]'
check 'over its rate it waits, and the others do not' '
    s=$(date +%s%N); all=
    for i in 1 2 3 4 5; do ls_as bob/own "$bob" & all="$all $!"; done # at once, as a slow machine holds itself back
    for i in $all; do wait $i || exit 1; done; t=$((($(date +%s%N) - s) / 1000000))
    [ "$("$bin/fsb" cat "$at/ann/file#$ann")" = ann ] && [ $t -gt 500 ] &&
    "$bin/fsb" status "unix:$dir/status" | grep -q "^requests held back by a rate *[1-9]"'
check 'revoked: the mount that came with it is cut off, a new token opens again' '
    "$bin/fsb" token revoke --tokens "$tokens" "$ann" && soon "! ls_as ann $ann 2>/dev/null" &&
    soon "! timeout 20 ls $mnt/ >/dev/null 2>&1"; fusermount3 -u "$mnt" || fusermount3 -uz "$mnt"
    "$bin/fsb" token show --tokens "$tokens" "$ann" >"$dir/out"; grep -q "^it is   revoked$" "$dir/out" &&
    "$bin/fsb" token create --tokens "$tokens" --tenant ann --until 1h >"$dir/ann.token" && [ "$(ls_as ann "$(cat "$dir/ann.token")" | head -n 1)" = file ]'
check 'an expired token' '"$bin/fsb" token create --tokens "$tokens" --tenant ann --until 2001-01-01 >"$dir/over"; ! ls_as ann "$(cat "$dir/over")" 2>/dev/null'
check 'another key signs; the old tokens stay good until theirs is taken out' '
    "$bin/fsb" token rotate --tokens "$tokens"; "$bin/fsb" token create --tokens "$tokens" --tenant bob --until 1h >"$dir/bob2.token"
    bob2=$(cat "$dir/bob2.token")
    soon "ls_as bob $bob2 >/dev/null" && ls_as bob "$bob" >/dev/null || exit 1
    sed -i "/^key      1 /d" "$tokens"; soon "! ls_as bob $bob 2>/dev/null" && ls_as bob "$bob2" >/dev/null'
check 'a bad file is left out of account' 'sed -i "\$atenant ann" "$tokens"; soon "grep -q twice $dir/host.log" && ls_as bob "$(cat "$dir/bob2.token")" >/dev/null'
check 'each refusal is in the log, and no secret' '
    for why in expired revoked "forged: no key"; do grep -q "token .* of tenant .*: $why" "$dir/host.log" || exit 1; done
    ! grep -qF -e "${ann##*:}" -e "${bob##*:}" "$dir/host.log"'
stop_host

check 'a bad file is told at the start' '! "$bin/fsb-host" --listen tls:127.0.0.1:0 --tokens "$tokens" 2>&1 | grep -v "that tenant is there twice"'
sed -i '$d' "$tokens"; echo data >"$data/data"
serve "$data"
data_url=$(grep '/data#' "$dir/urls"); export data_url
check 'a folder with a join code besides' '[ "$("$bin/fsb" cat "${data_url%#*}/data#${data_url#*#}")" = data ] && ls_as bob "$(cat "$dir/bob2.token")" >/dev/null && ! ls_as data "$(cat "$dir/bob2.token")" 2>/dev/null'
finish
