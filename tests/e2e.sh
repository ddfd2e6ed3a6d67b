# e2e.sh - what the end-to-end scripts share; sourced by tests/e2e_*.sh, which end with finish.
#
#   begin NAME          a scratch folder in $dir, cleaned up however the script ends
#   host DIR [ARGS]     starts fsb-host on $dir/sock: $host_pid, $url
#   mount_at MNT [ARGS] mounts $url there        unmount_at MNT
#   check 'what' CMD    one check: CMD must succeed       skip 'what' 'why'
#   soon CMD            repeats CMD until it succeeds, for a minute
set -u
cd "$(dirname "$0")/.." || exit 1
bin=${FSB_BIN:-$PWD/build/bin}
passed=0 failed=0 skipped=0 host_pid= dir= mounts=

begin() {
    name=$1
    dir=$(mktemp -d "${TMPDIR:-/tmp}/fsb-e2e-XXXXXX") || exit 1
    trap clean_up EXIT
    trap 'exit 1' INT TERM HUP
    mkdir "$dir/data" "$dir/mnt"
    mnt=$dir/mnt data=$dir/data
    if [ ! -w /dev/fuse ] || ! command -v fusermount3 >/dev/null; then
        skip "$name" "/dev/fuse or fusermount3 is missing: nothing can be mounted"
        finish
    fi
}
clean_up() {
    cd /
    for m in $mounts; do
        mountpoint -q "$m" && { fusermount3 -u "$m" 2>/dev/null || fusermount3 -uz "$m" || umount -l "$m"; }
    done
    stop_host
    for _ in $(seq 50); do # the daemons end by themselves once unmounted
        pgrep -f "fsb-mount.*$dir/" >/dev/null || break
        sleep 0.1
    done
    pkill -9 -f "fsb-mount.*$dir/" 2>/dev/null
    rm -rf --one-file-system "$dir"
}
stop_host() {
    [ -n "$host_pid" ] || return 0
    kill -CONT "$host_pid" 2>/dev/null
    kill "$host_pid" 2>/dev/null
    wait "$host_pid" 2>/dev/null
    host_pid=
}
finish() {
    echo "$name: $passed passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ]
    exit
}
check() {
    local what=$1 out status
    shift
    out=$(timeout "${limit:-120}" bash -c "$*" 2>&1)
    status=$?
    if [ $status = 0 ]; then
        passed=$((passed + 1))
        echo "ok   $what"
    else
        failed=$((failed + 1))
        echo "FAIL $what (status $status): $*"
        echo "$out" | tail -n 20 | sed 's/^/     /'
    fi
}
soon() {
    for _ in $(seq 600); do
        (eval "$*") && return 0
        sleep 0.1
    done
    return 1
}
export -f soon
skip() {
    skipped=$((skipped + 1))
    echo "SKIP $1: $2"
}
host() {
    rm -f "$dir/url"
    "$bin/fsb-host" --listen "unix:$dir/sock" "$@" >"$dir/url" 2>>"$dir/host.log" &
    host_pid=$!
    for _ in $(seq 3000); do
        [ -s "$dir/url" ] && break
        kill -0 $host_pid 2>/dev/null || break
        sleep 0.02
    done
    url=$(head -n 1 "$dir/url")
    [ -n "$url" ] || { echo "FAIL fsb-host does not start"; cat "$dir/host.log"; failed=$((failed + 1)); finish; }
}
mount_at() {
    local where=$1
    shift
    mkdir -p "$where"
    mounts="$mounts $where"
    if ! "$bin/fsb-mount" --log "$dir/mount.log" "$@" "$url" "$where"; then
        echo "FAIL fsb-mount does not mount"
        failed=$((failed + 1))
        finish
    fi
}
unmount_at() { # by then the daemon has written everything, and ends
    fusermount3 -u "$1" || fusermount3 -uz "$1"
    for _ in $(seq 1200); do
        pgrep -f "fsb-mount.* $1\$" >/dev/null || return 0
        sleep 0.05
    done
    return 1
}
