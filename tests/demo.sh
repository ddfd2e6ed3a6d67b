#!/usr/bin/env bash
# demo.sh: serves a folder, mounts it, uses it, and leaves nothing behind (make demo).
set -u
cd "$(dirname "$0")/.." || exit 1
bin=$PWD/build/bin
fail() { echo "demo: $*" >&2; exit 1; }
[ -x "$bin/fsb-host" ] && [ -x "$bin/fsb-mount" ] || fail "fsb-host or fsb-mount was not built"
[ -w /dev/fuse ] || fail "/dev/fuse is missing, or not yours to open, and mounting needs it" \
    "(in a container: --device /dev/fuse --cap-add SYS_ADMIN)"
command -v fusermount3 >/dev/null || fail "fusermount3 is missing: install fuse3"

dir=$(mktemp -d "${TMPDIR:-/tmp}/fsb-demo-XXXXXX") || exit 1
host=
clean_up() {
    cd /
    if mountpoint -q "$dir/mnt"; then fusermount3 -u "$dir/mnt" || fusermount3 -uz "$dir/mnt"; fi
    [ -z "$host" ] || { kill "$host" && wait "$host"; } 2>/dev/null
    mountpoint -q "$dir/mnt" || rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 1' INT TERM HUP
run() { # shows a command, then runs it
    printf '\033[1m$ %s\033[0m\n' "$*" | { [ -t 1 ] && cat || sed 's/\x1b\[[0-9]*m//g'; }
    bash -c "$*" || fail "that failed: $*"
}

cd "$dir" || exit 1
export PATH=$bin:$PATH
mkdir shared mnt
echo 'Hello from the other side.' >shared/hello.txt
mkdir shared/photos
head -c 64M /dev/urandom >shared/photos/big.bin

echo '$ fsb-host --listen unix:fsb.sock shared &'
fsb-host --listen "unix:$dir/fsb.sock" shared >url &
host=$!
for _ in $(seq 1200); do
    [ -s url ] && break
    kill -0 $host 2>/dev/null || fail "fsb-host ended"
    sleep 0.05
done
url=$(head -n 1 url)
[ -n "$url" ] || fail "fsb-host printed no URL within a minute"
echo "$url"
run "fsb-mount '$url' mnt"
mountpoint -q mnt || fail "nothing is mounted on $dir/mnt"
run 'ls -l mnt mnt/photos'
run 'cat mnt/hello.txt'
run 'sha256sum < shared/photos/big.bin; sha256sum < mnt/photos/big.bin'
run 'cmp shared/photos/big.bin mnt/photos/big.bin'
run 'cp mnt/photos/big.bin mnt/copy.bin && mv mnt/copy.bin mnt/photos/copy.bin'
run 'cmp shared/photos/big.bin shared/photos/copy.bin'
run 'echo "Hello back." >> mnt/hello.txt && cat shared/hello.txt'
[ "$(tail -n 1 shared/hello.txt)" = 'Hello back.' ] || fail "what was written is not there"
run 'rm mnt/photos/copy.bin && ls shared/photos'
run 'fusermount3 -u mnt'
[ -z "$(ls mnt)" ] || fail "mnt is not empty after the unmount"
kill $host
wait $host
status=$?
host=
[ $status = 0 ] || fail "fsb-host ended with status $status"
echo 'demo: all of it worked; nothing is left behind'
