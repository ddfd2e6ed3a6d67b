#!/usr/bin/env bash
# e2e_trouble.sh: what is refused, what breaks, and what must be said then.
. "$(dirname "$0")/e2e.sh"
begin e2e_trouble
export dir mnt data bin
echo secret >"$dir/outside"
mkdir "$data/sub"
echo inside >"$data/sub/file"

# refused STATUS PATTERN COMMAND: it must fail so, with one line on stderr, and print nothing
cat >"$dir/refused" <<'S'
status=$1 pattern=$2; shift 2
"$@" >"$dir/out" 2>"$dir/err" </dev/null; got=$?
cat "$dir/err"
[ $got = $status ] || { echo "exit status $got"; exit 1; }
[ ! -s "$dir/out" ] || { echo "it printed on stdout"; exit 1; }
grep -qiE "$pattern" "$dir/err" || exit 1
[ "$(grep -cv '^Try ' "$dir/err")" = 1 ] || { echo "more than one line"; exit 1; }
S
r="bash '$dir/refused'"
check 'host: a missing folder' "$r 1 'No such file' $bin/fsb-host --listen unix:$dir/s $dir/none"
check 'host: a file for a folder' "$r 1 'no folder' $bin/fsb-host --listen unix:$dir/s $dir/outside"
check 'host: no folder at all' "$r 2 'no folder' $bin/fsb-host --listen unix:$dir/s"
check 'host: an unknown option' "$r 2 'option' $bin/fsb-host --wrong $data"
check 'host: a wrong address' "$r 2 'no address' $bin/fsb-host --listen nonsense $data"
check 'host: an address that is not the loopback' "$r 1 'not permitted' $bin/fsb-host --listen 0.0.0.0:0 $data"
check 'host: a socket in a folder that is not there' "$r 1 'not there' $bin/fsb-host --listen unix:$dir/none/s $data"
check 'host: a file in the way of the socket' "$r 1 'in the way' $bin/fsb-host --listen unix:$dir/outside $data"
check 'host: help and version' "$bin/fsb-host --help | grep -q Usage && $bin/fsb-host --version | grep -q '^fsb-host [0-9]'"
host "$data"
"$bin/fsb-host" --listen 127.0.0.1:0 "$data" >"$dir/port" 2>/dev/null &
other=$!
for _ in $(seq 1000); do [ -s "$dir/port" ] && break; sleep 0.02; done
port=$(sed 's,.*127.0.0.1:,,; s,/.*,,' "$dir/port")
check 'host: a port in use' "$r 1 'already' $bin/fsb-host --listen 127.0.0.1:$port $data"
kill $other
wait $other
check 'host: a socket in use' "$r 1 'already' $bin/fsb-host --listen unix:$dir/sock $data"
if [ "$(id -u)" = 0 ]; then
    chmod 700 "$dir" "$data"
    check 'host: an unreadable folder' "chmod 711 $dir; mkdir -m 700 $dir/private; cd /; $r 1 'denied|may read' setpriv --reuid 65534 --regid 65534 --clear-groups $bin/fsb-host --listen unix:$dir/none/s $dir/private"
    chmod 755 "$dir" "$data"
else skip 'an unreadable folder' 'needs root'; fi

check 'mount: a wrong URL' "$r 2 'no URL' $bin/fsb-mount nonsense $mnt"
check 'mount: a mistyped code' "$r 1 'mistyped' $bin/fsb-mount 'fsb://h:1/x#code' $mnt"
check 'mount: too few arguments' "$r 2 'needed' $bin/fsb-mount '$url'"
check 'mount: no such socket' "$r 1 'no host' $bin/fsb-mount 'fsb+unix://$dir/none?share=x' $mnt"
check 'mount: no such share' "$r 1 'no share' $bin/fsb-mount 'fsb+unix://$dir/sock?share=other' $mnt"
check 'mount: nobody listens' "$r 1 'no host' $bin/fsb-mount 'fsb+tcp://127.0.0.1:1/x' $mnt"
check 'mount: no mount point' "$r 1 'no such|not there' $bin/fsb-mount '$url' $dir/nowhere"
check 'mount: the mount point is a file' "$r 1 'folder|directory' $bin/fsb-mount '$url' $dir/outside"
check 'mount: the mount point is not empty' "mkdir $dir/full && touch $dir/full/x && $r 1 'empty' $bin/fsb-mount '$url' $dir/full"
check 'mount: an unknown FUSE option' "$r 1 'option' $bin/fsb-mount -o nonsense '$url' $mnt"
check 'mount: help and version' "$bin/fsb-mount --help | grep -q Usage && $bin/fsb-mount --version | grep -q '^fsb-mount [0-9]'"
check 'nothing is left behind' "[ -z \"\$(ls $mnt)\" ] && ! mountpoint -q $mnt && ! pgrep -f 'bin/[f]sb-mount.*$dir/'"

# A stale socket: the host was killed, a new one takes over.
kill -9 "$host_pid"; wait "$host_pid" 2>/dev/null
check 'a killed host leaves its socket' "[ -S '$dir/sock' ]"
host "$data"
mount_at "$mnt" --timeout 4 # a read may wait for four: the kernel reads ahead, then page by page

check 'mount: the mount point is in use' "$r 1 'mounted' $bin/fsb-mount '$url' $mnt"

# The jail: nothing outside is reached, by whatever name.
ln -s "$dir/outside" "$data/absolute"
ln -s ../outside "$data/up"
ln -s nowhere "$data/dangling"
ln -s "$dir" "$data/folder"
check 'links are shown as they are' '[ "$(readlink "$mnt/absolute")" = "$dir/outside" ] && [ "$(readlink "$mnt/dangling")" = nowhere ]'
# The link leads to evil/ from the served folder, but nowhere from this mount: only a host that
# follows it could show or change what is there.
mount_at "$dir/else/where/mnt"
check 'a folder that is swapped for a link outside leads nowhere' '
    mkdir -p "$data/swap/d" "$dir/evil"; echo secret >"$dir/evil/f"; echo fine >"$data/swap/d/f"
    there=$dir/else/where/mnt/swap/d
    (for i in $(seq 300); do mv "$data/swap/d" "$data/swap/e"; ln -s ../../evil "$data/swap/d"; rm "$data/swap/d"; mv "$data/swap/e" "$data/swap/d"; done) & s=$!
    while kill -0 $s 2>/dev/null; do
        for i in 1 2 3 4 5 6 7 8; do cat "$there/f"; echo new >"$there/new"; done
    done >"$dir/seen" 2>/dev/null
    sort "$dir/seen" | uniq -c; grep -q fine "$dir/seen" && ! grep -q secret "$dir/seen" && [ ! -e "$dir/evil/new" ]'
unmount_at "$dir/else/where/mnt"

# A host that dies: an error within the timeout, never short or wrong data.
head -c 300M /dev/urandom >"$data/big"
limit=300
check 'host killed in the middle of a read: an error, never a short file' '
    exec 3<"$mnt/big"; head -c 1M <&3 >/dev/null
    (cat <&3 >"$dir/got"; echo $? >"$dir/status") & c=$!
    sleep 0.02; kill -9 '"$host_pid"'; SECONDS=0; wait $c
    [ $SECONDS -le 20 ] && s=$(stat -c %s "$dir/got") && cmp -n "$s" "$dir/got" <(tail -c +1048577 "$data/big") &&
    if [ "$(cat "$dir/status")" = 0 ]; then [ $((s + 1048576)) = 314572800 ]; fi'
wait "$host_pid" 2>/dev/null
host_pid=
check 'and every call after it fails with an errno, soon' '! timeout 20 touch "$mnt/new" 2>"$dir/err"; grep -qiE "not connected|timed out" "$dir/err"'
host "$data"
check 'once a host is there again the mount goes on' 'soon "timeout 20 head -c 1M $mnt/big >/dev/null" && cmp "$mnt/big" "$data/big"'
check 'and it still unmounts' 'fusermount3 -u "$mnt" && ! mountpoint -q "$mnt"'

# Signals.
mount_at "$mnt"
check 'SIGTERM unmounts' 'pkill -f "fsb-mount.* $mnt\$"; for i in $(seq 400); do mountpoint -q "$mnt" || break; sleep 0.05; done; ! mountpoint -q "$mnt"'
mount_at "$mnt"
check 'a killed fsb-mount is cleaned up by fusermount3 -u' 'pkill -9 -f "fsb-mount.* $mnt\$"; sleep 0.2; fusermount3 -u "$mnt" && ! mountpoint -q "$mnt"'
check 'fsb-host lives on' 'kill -0 '"$host_pid"
mount_at "$mnt" --read-only
check 'a read-only mount is one' '! touch "$mnt/new" 2>"$dir/err" && grep -q "Read-only" "$dir/err" && [ "$(cat "$mnt/sub/file")" = inside ]'
unmount_at "$mnt"
stop_host
host --read-only "$data"
mount_at "$mnt"
check 'a read-only share refuses' '! touch "$mnt/new" 2>"$dir/err" && [ ! -e "$data/new" ]'
unmount_at "$mnt"
if [ "$(id -u)" = 0 ]; then
    stop_host
    host "$data"
    mount_at "$mnt" -o allow_other
    chmod 755 "$dir"; chmod 1777 "$data"
    check 'rights are checked as on a local disk' '
        echo x >"$data/private" && chmod 600 "$data/private"
        n() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
        ! n cat "$mnt/private" 2>/dev/null && n sh -c "echo mine >$mnt/theirs" && [ "$(stat -c %u:%g "$data/theirs")" = 65534:65534 ] && ! n rm "$mnt/private" 2>/dev/null'
    unmount_at "$mnt"
else skip 'rights of other users' 'needs root'; fi
finish
