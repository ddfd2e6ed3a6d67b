#!/usr/bin/env bash
# Join codes over TLS, and what a mount survives.
. "$(dirname "$0")/e2e.sh"
begin e2e_safe

"$bin/fsb-host" --listen tls:127.0.0.1:0 "$data" >"$dir/probe" 2>&1 & probe=$!
for _ in $(seq 1200); do [ -s "$dir/probe" ] && break; sleep 0.05; done
kill $probe 2>/dev/null; wait $probe 2>/dev/null
if ! grep -q '^fsb://' "$dir/probe"; then
    skip e2e_safe "built without OpenSSL"
    finish
fi

codes=$dir/codes
for _ in $(seq 20); do # a port that is free, and below those that are given away while no host has it
    port=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
done
secure_host() { host --listen "tls:127.0.0.1:$port" --code-file "$codes" "$@" "$data"; url=$(sed -n 2p "$dir/url"); }
echo hello >"$data/file"
head -c 20M /dev/urandom >"$data/big"

secure_host
check 'the URL has a code, the file is made for its owner alone' 'grep -qE "^fsb://127.0.0.1:[0-9]+/data#([0-9A-HJKMNP-TV-Z]{4}-){6}[0-9A-HJKMNP-TV-Z]{4}$" <<<"'"$url"'" && [ "$(stat -c %a "'"$codes"'")" = 600 ]'
mount_at "$mnt" --timeout 10
check 'a mount over TLS reads and writes' 'cmp "'"$mnt"'/big" "'"$data"'/big" && cp "'"$data"'/big" "'"$mnt"'/copy" && cmp "'"$mnt"'/copy" "'"$data"'/copy"'
check 'nothing shows the code: not ps, not the mount table' '! tr "\0" " " </proc/$(pgrep -of "fsb-mount.*'"$mnt"'$")/cmdline | grep -q "#." && ! grep -q "#" /proc/mounts'
unmount_at "$mnt"

code=${url#*#} bare=${url%#*}
once() { "$bin/fsb-mount" --timeout 20 "$@" "$mnt" && fusermount3 -u "$mnt"; }
known() { "$bin/fsb" ls --code-file "$dir/$1" "$bare" >/dev/null 2>&1; } # has the host read of it?
export -f once known; export bin mnt bare code codes dir data
settle() { for _ in $(seq 1200); do pgrep -f "fsb-mount.*$mnt\$" >/dev/null || return 0; sleep 0.05; done; }
check 'the code from the environment' 'FSB_CODE="$code" once "$bare"'; settle
check 'the code from a file' 'printf "%s\n" "$code" >"$dir/code"; once --code-file "$dir/code" "$bare"'; settle
check 'the code from the host'"'"'s own file' 'once --code-file "$codes" "$bare"'; settle
check 'the code from stdin, as people type it' 'tr "A-Z-" "a-z " <<<"$code" | once --code-file - "$bare"'; settle
check 'no code' 'once "$bare" 2>&1 | grep -q "no join code"'
check 'a mistyped code is told from a wrong one' 'c=$(tr "[0-9A-HJKMNP-TV-Z]" "[1-9A-HJKMNP-TV-Z0]" <<<"${code:0:1}")${code:1}; once "$bare#$c" 2>&1 | grep -q mistyped'
check 'a wrong code' 'w=$("$bin/fsb-host" --code-file "$dir/others" --new-code x); once "$bare#$w" 2>&1 | grep -q "no such code"'

check 'a read-only code, made while the host runs' '"$bin/fsb-host" --code-file "$codes" --new-code guest --read-only >"$dir/guest"; sleep 2.5; soon known guest && "$bin/fsb-mount" --code-file "$dir/guest" --timeout 5 "$bare" "$mnt" && cat "$mnt/file" && ! touch "$mnt/new" 2>/dev/null'
check 'revoked, it is of no use any more, also for who is connected' '"$bin/fsb-host" --code-file "$codes" --revoke guest; sleep 2.5; soon "! timeout 20 cat $mnt/big >/dev/null 2>&1"; out=$?; fusermount3 -u "$mnt"; [ $out = 0 ] && ! once --code-file "$dir/guest" "$bare"'; settle
check 'an expired code' '"$bin/fsb-host" --code-file "$codes" --new-code old --until 2001-01-01 >"$dir/old"; sleep 2.5; ! once --code-file "$dir/old" "$bare"'
check 'a code for another share' '"$bin/fsb-host" --code-file "$codes" --new-code other --share other >"$dir/other"; sleep 2.5; ! once --code-file "$dir/other" "$bare"'
check 'a code file that others may read is refused' 'cp "$codes" "$dir/open" && chmod 644 "$dir/open"; ! "$bin/fsb-host" --code-file "$dir/open" --revoke old 2>"$dir/err" && grep -q "chmod 600" "$dir/err"'
check 'the first code still opens' 'once "$bare#$code"'; settle

# ---- what a mount survives ----
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
check 'and the mount is usable within 5 s' 'timeout 5 dd if="$mnt/file" iflag=direct of=/dev/null 2>&1 && cmp "$mnt/long" "$data/long"'

check 'a host that stops says so, the mount waits, then goes on' 'kill '"$host_pid"'; soon "grep -q \"it has stopped\" $dir/mount.log"'
wait "$host_pid" 2>/dev/null; again
check 'and is there' 'cmp "$mnt/big" "$data/big"'
"$bin/fsb-host" --code-file "$codes" --new-code main >"$dir/main"
sleep 2.5; soon known main
check 'a new code for the old name: who has the old one is out, at once' 'SECONDS=0; soon "! timeout 10 ls $mnt/ 2>$dir/err"; [ $SECONDS -lt 10 ] && grep -qi "permission" "$dir/err"'
check 'and it still unmounts' 'fusermount3 -u "$mnt"'; settle
check 'the new one opens' 'once --code-file "$codes" "$bare"'; settle
code=$(sed -n "s/  .* main$//p" "$codes")
export url=$bare#$code

# ---- the code of the fsb command ----
check 'fsb takes the code from a file, before the command or behind it' \
    '"$bin/fsb" --code-file "$codes" cat "$bare/file" | grep -q hello && "$bin/fsb" ls -l --code-file="$codes" "$bare" | grep -q file'
check 'from the environment, from stdin' \
    'FSB_CODE_FILE=$codes "$bin/fsb" cat "$bare/file" | grep -q hello && "$bin/fsb" cat --code-file - "$bare/file" <"$codes" | grep -q hello'
check 'no message shows the code' \
    '"$bin/fsb" stat "$url" >"$dir/said" 2>&1; ! "$bin/fsb" cat "$bare/none#$code" >>"$dir/said" 2>&1; grep -q "$bare" "$dir/said" && ! grep "$code" "$dir/said"'
check 'a file that is not there, a file without its name' \
    '"$bin/fsb" --code-file "$dir/none" ls "$bare" 2>&1 | grep -q "code file $dir/none" && ! "$bin/fsb" ls --code-file 2>/dev/null'

# ---- links that lead out ----
links=$data/links
mkdir -p "$links/a/b"; echo inside >"$links/file"; echo outside >"$dir/secret"
ln -s ../../../file "$links/a/b/in"; ln -s ../../../../secret "$links/a/b/out"
ln -s "$dir/secret" "$links/absolute"; ln -s a/../file "$links/named"; ln -s ./a//b/in "$links/chain"
mkdir -p "$links/pair/deep"; ln -s ../../../file "$links/pair/deep/twice"; ln "$links/pair/deep/twice" "$links/pair/shallow" # one file
mount_at "$mnt" --timeout 10
check 'links inside are followed, as deep as they are' \
    'grep -q hello "$mnt/links/a/b/in" && grep -q hello "$mnt/links/chain"'
check 'none that is absolute, climbs over the root, or climbs behind a name' \
    'for l in absolute a/b/out named; do cat "$mnt/links/$l" 2>"$dir/err" && exit 1; grep -q "not permitted" "$dir/err" || exit 1; done'
check 'they are listed and removed all the same, and one is named in the log' \
    'stat -c %F "$mnt/links/absolute" | grep -q "symbolic link" && ls -l "$mnt/links" | grep -q "absolute$" && rm "$mnt/links/named" && [ $(grep -c "leads out of the mount" "$dir/mount.log") = 1 ]'
check 'a link with two names counts from where it is less deep' \
    'cat "$mnt/links/pair/deep/twice" >/dev/null && ls -l "$mnt/links/pair" >/dev/null 2>&1; ! readlink "$mnt/links/pair/shallow" && ! readlink "$mnt/links/pair/deep/twice" && rm "$mnt/links/pair/shallow"'
check 'a folder that the host moves up is another one' \
    'cd "$mnt/links/a/b" && mv "$data/links/a/b" "$data/links/risen" && soon "ls $mnt/links/risen >/dev/null" &&
    soon "! cat in 2>/dev/null" && ! cat "$mnt/links/risen/in" 2>/dev/null && [ "$(cat "$mnt/links/file")" = inside ]'
check 'set-user-id programs and devices count for nothing' 'grep " $mnt " /proc/mounts | grep nosuid | grep -q nodev'
unmount_at "$mnt"
mount_at "$mnt" --timeout 10 -o no_contain_symlinks
check 'no_contain_symlinks follows them' 'grep -q outside "$mnt/links/absolute"'
unmount_at "$mnt"
stop_host
check 'the code outlives the host' 'grep -q "$code" "$codes"'

# ---- locks, and a host that is killed ----
holder=$dir/holder.py
cat >"$holder" <<'END'
import fcntl, sys, time
f = open(sys.argv[1], "r+")
fcntl.flock(f, fcntl.LOCK_EX)
r = open(sys.argv[1] + ".range", "r+")
fcntl.lockf(r, fcntl.LOCK_EX, 10, 5)
open(sys.argv[2], "w").close()
sys.stdin.readline()
f.write("held"); f.flush(); r.write("held"); r.flush()
END
try() { # MOUNT: is it locked there?
    python3 -c 'import fcntl, sys
bad = 0
for name, lock in ((sys.argv[1], fcntl.flock), (sys.argv[1] + ".range", lambda f, how: fcntl.lockf(f, how, 10, 5))):
    with open(name, "r+") as f:
        try: lock(f, fcntl.LOCK_EX | fcntl.LOCK_NB); bad = 1
        except BlockingIOError: pass
sys.exit(bad)' "$1/locked"
}
export -f try
echo ____ | tee "$data/locked" >"$data/locked.range"
host "$data"
mount_at "$mnt" --timeout 20 -o remote_locks
mkdir "$dir/go"; mkfifo "$dir/go/on"
python3 "$holder" "$mnt/locked" "$dir/go/held" <"$dir/go/on" & holder_pid=$!
exec 9>"$dir/go/on"
for _ in $(seq 1200); do [ -e "$dir/go/held" ] && break; sleep 0.05; done
kill -9 "$host_pid"; wait "$host_pid" 2>/dev/null; host_pid=
host "$data"
touch "$mnt/back" # it is connected again, with its locks
mount_at "$dir/mnt2" --timeout 20 -o remote_locks
check 'locks are held again on a host that was killed and started anew' 'try "$dir/mnt2"'
echo >&9; exec 9>&-
wait $holder_pid; held=$?
check 'and their holder goes on' "[ $held = 0 ] && "'grep -q held "$data/locked" && grep -q held "$data/locked.range" && ! try "$dir/mnt2"'
unmount_at "$dir/mnt2"; unmount_at "$mnt"; stop_host

# ---- a host that is kept to its files ----
mkdir "$dir/own" "$dir/elsewhere" "$dir/public"
host -v --read-only --listen tls:127.0.0.1:0 --code-file "$dir/own/codes" "$data"
if grep -q 'out of reach (Landlock' "$dir/host.log"; then
    stop_host
    "$bin/fsb-host" --code-file "$dir/elsewhere/codes" --new-code other >/dev/null
    ln -s own "$dir/way"
    where() { # SECONDS OPTIONS: may it read a code file that its path led not to when it started?
        local seconds=$1
        shift
        rm "$dir/way"; ln -s own "$dir/way"; : >"$dir/host.log"
        host -v "$@" --listen tls:127.0.0.1:0 --code-file "$dir/way/codes" "$data"
        rm "$dir/way"; ln -s elsewhere "$dir/way"
        [ $# -gt 0 ] || soon "grep -q 'left out of account' '$dir/host.log'"
        sleep "$seconds"; stop_host
    }
    where 0
    check 'what it does not serve is out of its reach' 'grep -q "left out of account: Permission denied" "$dir/host.log"'
    where 1.5 --no-sandbox
    check 'with --no-sandbox not, as the log says' '! grep -q "Permission denied" "$dir/host.log" && grep -q "Landlock: --no-sandbox" "$dir/host.log"'
    where 0 --allow-exec
    check 'nor with --allow-exec' 'grep -q "Landlock: --allow-exec" "$dir/host.log"'
    host --audit "$dir/public/audit" --status "unix:$dir/public/status" --log "$dir/public/log" "$data"
    mount_at "$mnt"
    check 'within, all works: making, moving, cutting, special files, changes by others' \
        'cd "$mnt" && mkdir -p k/l m && echo x >k/l/x && mv k/l m/l && mv m/l/x m/y && truncate -s 0 m/y && ln m/y k/z && ln -s y m/s &&
        mkfifo m/p && df . >/dev/null && rm -r k m && echo new >"$data/foreign" && grep -q new foreign && "$bin/fsb" status "unix:$dir/public/status" >/dev/null'
    unmount_at "$mnt"; stop_host
    check 'it takes its sockets away' '[ ! -e "$dir/sock" ] && [ ! -e "$dir/public/status" ]'
else
    stop_host
    skip 'what it does not serve is out of its reach' 'the kernel has no Landlock'
fi

# ---- whose files ----
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
    owner() { stat -c %u:%g "$1"; }
    as() { setpriv --reuid "$1" --regid "$2" --clear-groups "${@:3}"; }
    export -f owner as
    chmod 711 "$dir"; mkdir -m 777 "$data/all"
    host --squash root --anon 60:61 --map-user 501=1000 --map-group 20=100 "$data"
    mount_at "$mnt" -o allow_other
    check 'another number there, its own here' \
        'as 501 20 touch "$mnt/all/mine" && [ "$(owner "$data/all/mine")" = 1000:100 ] && [ "$(owner "$mnt/all/mine")" = 501:20 ] && as 501 20 sh -c "echo x >>\"$mnt/all/mine\""'
    check 'who makes something as root makes it for nobody' \
        'touch "$mnt/all/root" && mkdir "$mnt/all/dir" && [ "$(owner "$data/all/root")" = 60:61 ] && [ "$(owner "$data/all/dir")" = 60:61 ]'
    check 'and gives it away by the same numbers' \
        'chown 501:20 "$mnt/all/root" && [ "$(owner "$data/all/root")" = 1000:100 ] && chown 0 "$mnt/all/root" && [ "$(owner "$data/all/root")" = 60:100 ]'
    check 'no device nodes' '! mknod "$mnt/all/null" c 1 3 2>/dev/null'
    unmount_at "$mnt"; stop_host
    host --squash all "$data"
    mount_at "$mnt" -o allow_other
    check 'everybody is nobody' 'as 501 20 sh -c ": >\"$mnt/all/any\"" && [ "$(owner "$data/all/any")" = 65534:65534 ] && chown 5 "$mnt/all/any" && [ "$(owner "$data/all/any")" = 65534:65534 ]'
    unmount_at "$mnt"; stop_host
else
    skip 'whose files are whose' 'only root, and setpriv, can be several users'
fi
check 'numbers that are none are refused' \
    'for o in "--squash some" "--anon root" "--map-user 5" "--map-user 5=x" "--anon 5" "--squash all --anon 0"; do
        "$bin/fsb-host" $o --listen "unix:$dir/no" "$data" 2>/dev/null; [ $? = 2 ] || { echo "$o"; exit 1; }; done'
finish
