#!/usr/bin/env bash
# Join codes over TLS, and what a mount survives.
. "$(dirname "$0")/e2e.sh"
begin e2e_safe

"$bin/fsb-host" --listen tls:127.0.0.1:0 "$data" >"$dir/probe" 2>&1 & probe=$!
for _ in $(seq 100); do [ -s "$dir/probe" ] && break; sleep 0.05; done
kill $probe 2>/dev/null; wait $probe 2>/dev/null
if ! grep -q '^fsb://' "$dir/probe"; then
    skip e2e_safe "built without OpenSSL"
    finish
fi

codes=$dir/codes
secure_host() { host --listen tls:127.0.0.1:0 --code-file "$codes" "$@" "$data"; url=$(sed -n 2p "$dir/url"); }
echo hello >"$data/file"
head -c 20M /dev/urandom >"$data/big"

secure_host
check 'the URL has a code, the file is made for its owner alone' 'grep -qE "^fsb://127.0.0.1:[0-9]+/data#([0-9A-HJKMNP-TV-Z]{4}-){6}[0-9A-HJKMNP-TV-Z]{4}$" <<<"'"$url"'" && [ "$(stat -c %a "'"$codes"'")" = 600 ]'
mount_at "$mnt" --timeout 10
check 'a mount over TLS reads and writes' 'cmp "'"$mnt"'/big" "'"$data"'/big" && cp "'"$data"'/big" "'"$mnt"'/copy" && cmp "'"$mnt"'/copy" "'"$data"'/copy"'
check 'nothing shows the code: not ps, not the mount table' '! tr "\0" " " </proc/$(pgrep -of "fsb-mount.*'"$mnt"'$")/cmdline | grep -q "#." && ! grep -q "#" /proc/mounts'
unmount_at "$mnt"

code=${url#*#} bare=${url%#*}
once() { "$bin/fsb-mount" --timeout 5 "$@" "$mnt" && fusermount3 -u "$mnt"; }
export -f once; export bin mnt bare code codes dir data
settle() { for _ in $(seq 100); do pgrep -f "fsb-mount.*$mnt\$" >/dev/null || return 0; sleep 0.05; done; }
check 'the code from the environment' 'FSB_CODE="$code" once "$bare"'; settle
check 'the code from a file' 'printf "%s\n" "$code" >"$dir/code"; once --code-file "$dir/code" "$bare"'; settle
check 'the code from the host'"'"'s own file' 'once --code-file "$codes" "$bare"'; settle
check 'the code from stdin, as people type it' 'tr "A-Z-" "a-z " <<<"$code" | once --code-file - "$bare"'; settle
check 'no code' 'once "$bare" 2>&1 | grep -q "no join code"'
check 'a mistyped code is told from a wrong one' 'c=$(tr "[0-9A-HJKMNP-TV-Z]" "[1-9A-HJKMNP-TV-Z0]" <<<"${code:0:1}")${code:1}; once "$bare#$c" 2>&1 | grep -q mistyped'
check 'a wrong code' 'w=$("$bin/fsb-host" --code-file "$dir/others" --new-code x); once "$bare#$w" 2>&1 | grep -q "no such code"'

check 'a read-only code, made while the host runs' '"$bin/fsb-host" --code-file "$codes" --new-code guest --read-only >"$dir/guest"; sleep 2.5; "$bin/fsb-mount" --code-file "$dir/guest" --timeout 5 "$bare" "$mnt" && cat "$mnt/file" && ! touch "$mnt/new" 2>/dev/null'
check 'revoked, it is of no use any more, also for who is connected' '"$bin/fsb-host" --code-file "$codes" --revoke guest; sleep 2.5; ! timeout 20 cat "$mnt/big" >/dev/null 2>&1; fusermount3 -u "$mnt"; ! once --code-file "$dir/guest" "$bare"'; settle
check 'an expired code' '"$bin/fsb-host" --code-file "$codes" --new-code old --until 2001-01-01 >"$dir/old"; sleep 2.5; ! once --code-file "$dir/old" "$bare"'
check 'a code for another share' '"$bin/fsb-host" --code-file "$codes" --new-code other --share other >"$dir/other"; sleep 2.5; ! once --code-file "$dir/other" "$bare"'
check 'a code file that others may read is refused' 'cp "$codes" "$dir/open" && chmod 644 "$dir/open"; ! "$bin/fsb-host" --code-file "$dir/open" --revoke old 2>"$dir/err" && grep -q "chmod 600" "$dir/err"'
check 'the first code still opens' 'once "$bare#$code"'; settle

# ---- what a mount survives ----
port=${bare%/*} port=${port##*:}
again() { "$bin/fsb-host" --listen "tls:127.0.0.1:$port" --code-file "$codes" "$@" "$data" >"$dir/url2" 2>>"$dir/host.log" & host_pid=$!; }
kill_host() { kill -9 "$host_pid"; wait "$host_pid" 2>/dev/null; host_pid=; }
url=$bare#$code
mount_at "$mnt" --timeout 30
head -c 200M /dev/urandom >"$data/long"

(cat "$mnt/long" >"$dir/got"; echo $? >"$dir/status") & reader=$!
sleep 0.05; kill_host; sleep 1; again
check 'kill -9 of the host in the middle of a read: the reader never knows' "tail --pid=$reader -f /dev/null; "'[ "$(cat "$dir/status")" = 0 ] && cmp "$dir/got" "$data/long"'

(cp "$data/long" "$mnt/written" && sync "$mnt/written"; echo $? >"$dir/status") & writer=$!
sleep 0.2; kill_host; sleep 1; again
check 'kill -9 in the middle of a write: nothing is missing' "tail --pid=$writer -f /dev/null; "'[ "$(cat "$dir/status")" = 0 ] && cmp "$data/written" "$data/long"'

exec 7<"$mnt/file" 8>>"$mnt/journal"
echo one >&8
kill_host; again
check 'open files are open again on a new host' 'cat <&7 | grep -q hello && echo two >&8 && [ "$(cat "$mnt/journal")" = "$(printf "one\ntwo")" ]'
exec 7<&- 8>&-

kill -STOP "$host_pid"
(sleep 18; kill -CONT "$host_pid") & waker=$!
check 'a host that stands still for 18 s: a call waits, then all is well' 'SECONDS=0; timeout 40 ls -l "$mnt/" >/dev/null && timeout 40 cat "$mnt/big" | cmp - "$data/big"'
wait $waker
check 'and the mount is usable within 5 s' 'SECONDS=0; timeout 20 cmp "$mnt/long" "$data/long" && [ $SECONDS -lt 10 ]'

check 'a host that stops says so, the mount waits, then goes on' 'kill '"$host_pid"'; sleep 0.5; grep -q "it has stopped" "$dir/mount.log"'
wait "$host_pid" 2>/dev/null; again
check 'and is there' 'timeout 20 cmp "$mnt/big" "$data/big"'
"$bin/fsb-host" --code-file "$codes" --new-code main >/dev/null
sleep 2.5
check 'a new code for the old name: who has the old one is out, at once' 'SECONDS=0; ! timeout 25 ls "$mnt/" 2>"$dir/err"; [ $SECONDS -lt 10 ] && grep -qi "permission" "$dir/err"'
check 'and it still unmounts' 'fusermount3 -u "$mnt"'; settle
check 'the new one opens' 'once --code-file "$codes" "$bare"'; settle
code=$(sed -n "s/  .* main$//p" "$codes")
stop_host
check 'the code outlives the host' 'grep -q "$code" "$codes"'
finish
