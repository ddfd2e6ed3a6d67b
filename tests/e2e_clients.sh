#!/usr/bin/env bash
# e2e_clients.sh: several clients of one host: locks between them, what one sees of another, crowds.
. "$(dirname "$0")/e2e.sh"
begin e2e_clients
export dir mnt data bin
host "$data"
export url
one=$dir/one two=$dir/two
export one two
mount_at "$one" -o remote_locks
mount_at "$two" -o remote_locks

check 'what one writes and closes, the other reads when it opens' \
    'echo first >"$one/f" && [ "$(cat "$two/f")" = first ] && echo second, longer >"$two/f" && [ "$(cat "$one/f")" = "second, longer" ]'
check 'flock: the second client is refused, then served' '
    touch "$one/lock"
    flock "$one/lock" -c "touch $dir/held; until [ -e $dir/go ]; do sleep 0.1; done" & a=$!
    until [ -e "$dir/held" ]; do sleep 0.02; done
    flock -n "$two/lock" true; refused=$?
    (sleep 1; touch "$dir/go") & [ $refused = 1 ] && flock "$two/lock" test -e "$dir/go" && wait $a'
check 'flock: a client that is killed gives its locks back' '
    flock "$one/lock" -c "echo \$\$ >$dir/held2; exec sleep 100" & a=$!
    until [ -s "$dir/held2" ]; do sleep 0.02; done
    ! flock -n "$two/lock" true; pkill -9 -f "[f]sb-mount.* $one\$"; flock -w 30 "$two/lock" true
    s=$?; kill "$(cat "$dir/held2")"; wait $a; fusermount3 -uz "$one"; exit $s'
mount_at "$one" -o remote_locks
if command -v python3 >/dev/null; then
    check 'fcntl: ranges, between clients' 'python3 - <<P
import fcntl, os, struct
one, two = os.environ["one"] + "/ranges", os.environ["two"] + "/ranges"
a = os.open(one, os.O_RDWR | os.O_CREAT); b = os.open(two, os.O_RDWR)
fcntl.lockf(a, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)
fcntl.lockf(b, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 10)
try: fcntl.lockf(b, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 9); raise SystemExit("granted twice")
except OSError: pass
query = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 5, 0)
kind, _, start, length, pid = struct.unpack("hhqqi4x", fcntl.fcntl(b, fcntl.F_GETLK, query))
assert (kind, start, length) == (fcntl.F_WRLCK, 0, 10), (kind, start, length)
os.close(a)
fcntl.lockf(b, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)
P'
else skip 'fcntl locks' 'python3 is not installed'; fi
if command -v sqlite3 >/dev/null; then
    check 'SQLite, a rollback journal, written by both clients at once' '
        sqlite3 "$one/db" "PRAGMA journal_mode=DELETE; CREATE TABLE t(a)" >/dev/null
        w() { for i in $(seq 25); do sqlite3 -cmd ".timeout 30000" "$1/db" "INSERT INTO t VALUES($2*1000+$i)" || return 1; done; }
        w "$one" 1 & a=$!; w "$two" 2 & b=$!; wait $a && wait $b &&
        [ "$(sqlite3 "$two/db" "SELECT count(DISTINCT a) FROM t")" = 50 ] && sqlite3 "$one/db" "PRAGMA integrity_check" | grep -qx ok'
else skip 'SQLite by two clients' 'sqlite3 is not installed'; fi
check 'two clients append to one file and lose no line' '
    w() { for i in $(seq 500); do echo "line $i of $1" >>"$1/log"; done; }
    w "$one" & a=$!; w "$two" & b=$!; wait $a && wait $b && [ "$(wc -l <"$data/log")" = 1000 ] && [ "$(sort -u "$data/log" | wc -l)" = 1000 ]'
unmount_at "$one"
unmount_at "$two"

check '30 mounts at once, each reading 8 MiB: all served, little memory' '
    head -c 8M /dev/urandom >"$data/big"; sum=$(sha256sum <"$data/big")
    for i in $(seq 30); do mkdir -p "$dir/m$i"; "$bin/fsb-mount" --log "$dir/mount.log" "$url" "$dir/m$i" || exit 1; done
    for i in $(seq 30); do (timeout 60 sha256sum <"$dir/m$i/big" >"$dir/sum$i") & done; wait
    for i in $(seq 30); do [ "$(cat "$dir/sum$i")" = "$sum" ] || bad=1; fusermount3 -u "$dir/m$i" || fusermount3 -uz "$dir/m$i"; done
    kb=$(grep VmHWM /proc/'"$host_pid"'/status | tr -dc 0-9); echo "the host took $kb kB"; [ -z "${bad:-}" ] && [ "$kb" -lt "${HOST_KB:-65536}" ]'
finish
