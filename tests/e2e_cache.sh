#!/usr/bin/env bash
# e2e_cache.sh: what a mount keeps in memory and on disk: used, bounded, never wrong; offline.
# CACHE_SEED says which bits of its files are flipped.
. "$(dirname "$0")/e2e.sh"
begin e2e_cache
export dir mnt data bin
cache=$dir/cache
export cache
mkdir -p "$data/sub/deep"
for i in $(seq 40); do head -c $((i * 700)) /dev/urandom >"$data/sub/f$i"; done
head -c 3000000 /dev/urandom >"$data/large"
echo hello >"$data/sub/deep/hello"
ln -s sub/f1 "$data/link"
sums() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum); }
export -f sums
sums "$data" >"$dir/want"
bytes_read() { awk '/^rchar/ {print $2}' "/proc/$1/io"; }
same='sums "$mnt" >"$dir/have" && cmp "$dir/want" "$dir/have"'

# ---- on disk: a second mount finds what the first has read ----
host "$data"
mount_at "$mnt" --cache-dir "$cache" --cache-size 64M
check 'everything reads right through the cache' "$same"
check 'and again' "$same"
unmount_at "$mnt"
check 'fsb cache stat describes the folder' "'$bin/fsb' cache stat '$cache'"
check 'fsb cache verify finds it well' "'$bin/fsb' cache verify '$cache'"
mount_at "$mnt" --cache-dir "$cache" --cache-size 64M
mkdir "$dir/two"
check 'a second mount on the same folder is refused, with a reason' \
    "! '$bin/fsb-mount' --cache-dir '$cache' '$url' '$dir/two' 2>'$dir/err' && grep -q 'another mount' '$dir/err'"
before=$(bytes_read $host_pid)
check 'after a remount everything reads right' "$same"
check 'and the host was not asked for the bytes again' \
    "test $(($(bytes_read $host_pid) - before)) -lt 300000"
unmount_at "$mnt"

# ---- changes meanwhile ----
cp -p "$data/sub/f7" "$dir/old"
head -c "$(stat -c %s "$data/sub/f7")" /dev/urandom >"$dir/new"
cat "$dir/new" >"$data/sub/f7"
touch -r "$dir/old" "$data/sub/f7" # the same size and time
rm "$data/sub/f8"
sums "$data" >"$dir/want"
mount_at "$mnt" --cache-dir "$cache" --cache-size 64M
check 'what changed while nobody looked is seen after a remount' "$same"
unmount_at "$mnt"

# ---- offline ----
stop_host
mount_at "$mnt" --cache-dir "$cache" --offline
check 'offline everything that was read is there' "$same"
check 'the root says so' "getfattr --only-values -n user.fsb.status '$mnt' | grep -q offline"
check 'writes are refused' "! touch '$mnt/x' 2>/dev/null && ! sh -c 'echo x >>\"$mnt/large\"' 2>/dev/null"
check 'a listing is whole' "test \$(ls '$mnt/sub' | wc -l) = 40" # 39 files and deep
unmount_at "$mnt"

# ---- what a broken disk does ----
host "$data"
for file in $(cd "$cache" && find . -type f); do
    for how in flip cut gone; do
        rm -rf "$dir/broken" && cp -r --sparse=always "$cache" "$dir/broken"
        case $how in
        flip) python3 - "$dir/broken/$file" "${CACHE_SEED:-5}" <<'P'
import random, sys
random.seed(int(sys.argv[2]))
with open(sys.argv[1], "r+b") as f:
    f.seek(0, 2)
    size = f.tell()
    for _ in range(200 if size > 4096 else 3):
        at = random.randrange(min(size, 4 << 20)) if size else 0
        f.seek(at)
        byte = f.read(1) or b"\0"
        f.seek(at)
        f.write(bytes([byte[0] ^ 1 << random.randrange(8)]))
P
            ;;
        cut) truncate -s $(($(stat -c %s "$dir/broken/$file") / 2)) "$dir/broken/$file" ;;
        gone) rm "$dir/broken/$file" ;;
        esac
        mount_at "$mnt" --cache-dir "$dir/broken" --cache-size 64M 2>>"$dir/err"
        check "$how ${file#./}: right data" "$same"
        unmount_at "$mnt"
    done
done
chmod 500 "$cache"
if [ "$(id -u)" = 0 ]; then skip 'a folder that may not be written' 'root may'; else
    mount_at "$mnt" --cache-dir "$cache" 2>>"$dir/err"
    check 'a folder that may not be written' "$same"
    unmount_at "$mnt"
fi
chmod 700 "$cache"

# ---- killed in the middle ----
for i in 1 2 3; do
    "$bin/fsb-mount" -f --cache-dir "$dir/killed" --cache-size 16M "$url" "$mnt" 2>>"$dir/err" &
    pid=$!
    mounts="$mounts $mnt"
    for _ in $(seq 1000); do mountpoint -q "$mnt" && break; sleep 0.02; done
    (sums "$mnt" >/dev/null 2>&1) &
    reader=$!
    sleep 0.0$((i * 3))
    kill -9 $pid
    wait $pid $reader 2>/dev/null
    fusermount3 -uz "$mnt"
done
mount_at "$mnt" --cache-dir "$dir/killed" --cache-size 16M
check 'kill -9 in the middle leaves nothing wrong' "$same"
unmount_at "$mnt"

# ---- a full disk ----
if mkdir "$dir/small" && mount -t tmpfs -o size=1M tmpfs "$dir/small" 2>/dev/null; then
    mounts="$mounts $dir/small"
    mount_at "$mnt" --cache-dir "$dir/small/cache" --cache-size 64M 2>>"$dir/err"
    check 'a full disk turns the cache off, not the mount' "$same"
    unmount_at "$mnt"
    umount "$dir/small"
else
    skip 'a full disk' 'no tmpfs can be mounted'
fi
finish
