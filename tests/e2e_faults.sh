#!/usr/bin/env bash
# e2e_faults.sh: networks that stall, cut and garble, hosts and clients that are killed or stand
# still, strangers, full disks. After each: what was acknowledged is there, once, the same on both
# sides; the mount goes on within 5 s by itself; who has nothing to do with it was not disturbed.
# The stages run side by side; FSB_SOAK=1 makes them as long as they deserve.
#
#   e2e_faults.sh [STAGE...]    tcp tls host strangers disk; dropped, which only the long run has
. "$(dirname "$0")/e2e.sh"
soak=${FSB_SOAK:-}
choose() { [ -n "$soak" ] && echo "$2" || echo "$1"; } # SHORT LONG

if [ $# != 1 ]; then # all stages at once, then one tally
    begin e2e_faults
    ${CC:-cc} -std=gnu11 -D_GNU_SOURCE -O1 -pthread -o "$dir/trouble" tests/trouble.c || exit 1
    export trouble=$dir/trouble
    stages=${*:-tcp tls host strangers disk $(choose '' dropped)} running=
    trap 'kill $running 2>/dev/null; wait; clean_up' EXIT
    for stage in $stages; do
        tests/e2e_faults.sh "$stage" >"$dir/$stage" 2>&1 &
        running="$running $!"
    done
    wait
    running=
    for stage in $stages; do
        grep -v '^e2e_faults/' "$dir/$stage" | sed "s/^\(ok  \|FAIL\|SKIP\) /\1 $stage: /"
        tally=$(grep '^e2e_faults/' "$dir/$stage" | tr -c '0-9\n' ' ')
        read -r _ p f s <<<"2 ${tally#* 2 }"
        ((passed += ${p:-0}, failed += ${f:-1}, skipped += ${s:-0}))
    done
    finish
fi

stage=$1 helpers=
begin "e2e_faults/$stage"
trap '{ kill -9 $helpers; wait $helpers; } 2>/dev/null; clean_up' EXIT
if [ -z "${trouble:-}" ]; then
    trouble=$dir/trouble
    ${CC:-cc} -std=gnu11 -D_GNU_SOURCE -O1 -pthread -o "$trouble" tests/trouble.c || exit 1
fi
export dir mnt data bin trouble

# ---- [parts] -------------------------------------------------------------------------------------
sums() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0r sha256sum); }
usable() { # MNT: it reads and writes, within 5 s from now
    timeout 5 sh -c 'echo yes >"$1/usable" && [ "$(cat "$1/usable")" = yes ] && rm "$1/usable"' - "$1"
}
same() { sums "$1" >"$dir/sums.1" && sums "$2" >"$dir/sums.2" && cmp "$dir/sums.1" "$dir/sums.2"; }
export -f sums usable same
working() { # MNT NAME SEED: work goes on there until worked NAME
    "$trouble" work "$1" "$dir/$2" 1000000 "$3" >"$dir/$2.said" 2>&1 &
    worker=$!
    helpers="$helpers $worker"
    sleep 0.3
}
worked() { # NAME MNT WHAT: the work ends; what it has been told is true
    : >"$dir/$1.stop"
    wait "$worker"
    local status=$?
    check "$3: nothing acknowledged is lost, done twice or changed" \
        "tail -n 3 '$dir/$1.said'; '$trouble' verify '$data' '$dir/$1' && '$trouble' verify '$2' '$dir/$1' && [ $status = 0 ]"
}
steady() { # a client that has nothing to do with the fault, and no cache
    head -c 1M /dev/urandom >"$data/steady"
    mount_at "$dir/steady" --memory 0
    steady_again
}
steady_again() {
    rm -f "$dir/steady.stop"
    "$trouble" steady "$dir/steady/steady" "$dir/steady.stop" >"$dir/gap" 2>"$dir/steady.said" &
    reader=$!
    helpers="$helpers $reader"
}
was_steady() { # WHAT MS: it had an answer every so often
    : >"$dir/steady.stop"
    wait "$reader"
    check "$1: another client waited $(cat "$dir/gap") ms at most" \
        "cat '$dir/steady.said'; [ \$(cat '$dir/gap') -lt $2 ]"
}
tcp_url() { sed -n 's/^fsb+tcp:/&/p' "$dir/url"; }
tls_url() { sed -n 's/^fsb:/&/p' "$dir/url"; }
address_in() { sed 's,.*//\([^/]*\)/.*,\1,' <<<"$1"; }
open_host() { host --listen 127.0.0.1:0 --listen tls:127.0.0.1:0 --code-file "$dir/codes" "$@" "$data"; }

# ---- [wire] what happens between the two ---------------------------------------------------------
wire() {
    local straight fault=$dir/fault
    open_host
    steady
    [ "$stage" = tls ] && straight=$(tls_url) || straight=$(tcp_url)
    if [ -z "$straight" ]; then
        skip "$stage" 'built without OpenSSL'
        return
    fi
    "$trouble" proxy 127.0.0.1:0 "$(address_in "$straight")" "$fault" >"$dir/proxy" &
    helpers="$helpers $!"
    until [ -s "$dir/proxy" ]; do sleep 0.02; done
    url=${straight/$(address_in "$straight")/$(cat "$dir/proxy")}
    echo record >"$fault"
    mount_at "$mnt" --timeout 60
    echo recorded >"$mnt/recorded"
    mv "$mnt/recorded" "$mnt/recorded-too"
    sync "$mnt"
    rm "$fault"

    working "$mnt" held 1
    echo hold >"$fault"
    sleep "$(choose 3 20)"
    rm "$fault"
    check "nothing comes through for $(choose 3 20) s: then the mount goes on" 'usable "$mnt"'
    worked held "$mnt" 'nothing comes through'

    working "$mnt" flipped 2
    echo flip 150000 >"$fault"
    sleep "$(choose 1.5 20)"
    [ "$stage" = tls ] || soon 'grep -q "changed on the way" "$dir/host.log" "$dir/mount.log"'
    rm "$fault"
    check 'flipped bits: then the mount goes on' 'usable "$mnt"'
    worked flipped "$mnt" 'flipped bits'
    [ "$stage" = tcp ] &&
        check 'flipped bits: it is said so' 'grep -q "changed on the way" "$dir/host.log" "$dir/mount.log"'

    local way
    for way in up down; do
        check "cut after so many bytes $way" \
            "'$trouble' cuts '$mnt' '$dir/$way' $(choose 10 1500) '$fault' $way 0 $(choose 113 1)"
        check "cut $way: then the mount goes on" 'usable "$mnt"'
        check "cut $way: nothing acknowledged is lost, done twice or changed" \
            "'$trouble' verify '$data' '$dir/$way' && '$trouble' verify '$mnt' '$dir/$way'"
    done
    check 'both sides have the same' 'same "$data" "$mnt"'

    echo precious >"$mnt/recorded-too"
    check 'what was recorded is sent again: the host and the mount go on' \
        "'$trouble' replay '$(address_in "$straight")' '$fault.bytes' && usable '$mnt'"
    [ "$stage" = tls ] &&
        check 'and it has done nothing' '[ ! -e "$data/recorded" ] && grep -qx precious "$data/recorded-too"'
    check 'both sides have the same, again' 'same "$data" "$mnt"'
    was_steady 'all of this' 4000
}

# ---- [dropped] packets that go nowhere -----------------------------------------------------------
in_net() { nsenter --net="/proc/$1/ns/net" "${@:2}"; } # PID COMMAND...
dropped() {
    local one two net straight
    unshare -n sleep 1000 2>/dev/null & one=$!
    unshare -n sleep 1000 2>/dev/null & two=$!
    helpers="$one $two"
    sleep 0.5
    if ! ip link add fsb0 netns $one type veth peer name fsb1 netns $two 2>"$dir/err"; then
        skip 'dropped packets' "no network namespaces: $(cat "$dir/err")"
        return
    fi
    in_net $one sh -c 'ip addr add 192.0.2.1/24 dev fsb0; ip link set fsb0 up; ip link set lo up'
    in_net $two sh -c 'ip addr add 192.0.2.2/24 dev fsb1; ip link set fsb1 up; ip link set lo up'
    nsenter --net="/proc/$one/ns/net" "$bin/fsb-host" --listen "unix:$dir/sock" --listen tls:192.0.2.1:0 \
        --code-file "$dir/codes" "$data" >"$dir/url" 2>"$dir/host.log" &
    host_pid=$!
    until [ "$(wc -l <"$dir/url")" = 2 ] || ! kill -0 $host_pid 2>/dev/null; do sleep 0.02; done
    url=$(head -n 1 "$dir/url")
    steady
    straight=$(tls_url)
    mkdir -p "$dir/mnt"
    mounts="$mounts $mnt"
    in_net $two "$bin/fsb-mount" --timeout 60 --log "$dir/mount.log" "$straight" "$mnt" || exit 1
    for net in 3 10 20; do
        working "$mnt" "dropped$net" "$net"
        in_net $one ip neigh replace 192.0.2.2 lladdr 02:00:00:00:00:99 dev fsb0 nud permanent
        in_net $two ip neigh replace 192.0.2.1 lladdr 02:00:00:00:00:99 dev fsb1 nud permanent
        sleep $net
        in_net $one ip neigh del 192.0.2.2 dev fsb0
        in_net $two ip neigh del 192.0.2.1 dev fsb1
        check "all packets dropped for $net s: then the mount goes on" 'usable "$mnt"'
        worked "dropped$net" "$mnt" "all packets dropped for $net s"
    done
    was_steady 'dropped packets' 2000
    check 'both sides have the same' 'same "$data" "$mnt"'
}

# ---- [host] who is killed or stands still --------------------------------------------------------
host_stage() {
    local round client
    host "$data"
    head -c 30M /dev/urandom >"$data/large"
    mount_at "$mnt" --timeout 60
    mount_at "$dir/two" --timeout 60
    for round in $(seq "$(choose 1 30)"); do
        working "$mnt" "killed$round" "$round"
        (cmp "$dir/two/large" "$data/large"; echo $? >"$dir/compared") >/dev/null 2>&1 &
        comparing=$!
        sleep "0.0$((RANDOM % 10))"
        kill -9 "$host_pid"
        wait "$host_pid" 2>/dev/null
        host "$data"
        check "kill -9 of the host, $round: the mounts go on" 'usable "$mnt" && usable "$dir/two"'
        wait "$comparing"
        check "kill -9 of the host, $round: who was reading has not noticed" '[ "$(cat "$dir/compared")" = 0 ]'
        worked "killed$round" "$mnt" "kill -9 of the host, $round"
    done
    steady
    working "$mnt" stopped 100
    kill -STOP "$host_pid"
    sleep "$(choose 3 30)"
    kill -CONT "$host_pid"
    check "SIGSTOP of the host for $(choose 3 30) s: then the mounts go on" 'usable "$mnt" && usable "$dir/two"'
    worked stopped "$mnt" 'SIGSTOP'
    was_steady SIGSTOP $(($(choose 3 30) * 1000 + 5000))

    steady_again
    for round in $(seq "$(choose 1 20)"); do
        "$bin/fsb-mount" -f --timeout 60 --log "$dir/mount.log" "$url" "$dir/three" & client=$!
        mkdir -p "$dir/three"
        helpers="$helpers $client" mounts="$mounts $dir/three"
        for _ in $(seq 1000); do mountpoint -q "$dir/three" && break; sleep 0.02; done
        working "$dir/three" "gone$round" "20$round"
        kill -9 $client
        wait $client 2>/dev/null
        : >"$dir/gone$round.stop"
        wait "$worker" # before the folder below shows
        fusermount3 -uz "$dir/three"
        check "kill -9 of a client, $round: what it had acknowledged is there, also for others" \
            "'$trouble' verify '$data' '$dir/gone$round' && '$trouble' verify '$mnt' '$dir/gone$round'"
    done
    was_steady 'kill -9 of a client' 4000
    check 'both sides have the same' 'same "$data" "$mnt" && same "$data" "$dir/two"'
}

# ---- [strangers] who should not be there ---------------------------------------------------------
strangers() {
    local tcp tls each at
    open_host
    steady
    tcp=$(address_in "$(tcp_url)") tls=$(address_in "$(tls_url)") each="unix:$dir/sock $tcp $tls"
    export tls_url=$(tls_url) tcp_url=$(tcp_url)
    for at in $each; do
        "$trouble" silent "$at" 200 >"$dir/silent.${at##*[:/]}" & helpers="$helpers $!"
    done
    sleep 1.5
    check 'while 200 say nothing on every socket, others come and are served' \
        'for u in "$tls_url" "$tcp_url"; do timeout 5 "$bin/fsb" ls "$u" >/dev/null || exit 1; done; usable "$dir/steady"'
    for at in gone old; do
        "$bin/fsb-host" --code-file "$dir/codes" --new-code $at $([ $at = old ] && echo --until 2001-01-01) >"$dir/$at.code"
    done
    "$bin/fsb-host" --code-file "$dir/codes" --revoke gone
    "$bin/fsb-host" --code-file "$dir/others" --new-code wrong >"$dir/wrong.code"
    export bare=${tls_url%#*}
    sleep 3 # it looks at its codes every second
    soon '! "$bin/fsb" ls --code-file "$dir/gone.code" "$bare" >/dev/null 2>&1'
    for at in wrong gone old; do
        check "a code that is $at: it is said so" \
            '! "$bin/fsb-mount" --timeout 5 --code-file "$dir/'$at'.code" "$bare" "$mnt" 2>"$dir/err" && grep -q "no such code: it was revoked, has expired" "$dir/err"'
    done
    for at in $each; do
        "$trouble" noise "$at" "$(choose 1 10)" 7 >"$dir/noise.${at##*[:/]}" & pids="${pids:-} $!"
    done
    wait $pids
    check 'random bytes on every socket: the host goes on' \
        'cat "$dir"/noise.*; usable "$dir/steady" && timeout 5 "$bin/fsb" ls "$tls_url" >/dev/null && timeout 5 "$bin/fsb" ls "$tcp_url"'
    if [ -n "$soak" ]; then
        for _ in $(seq 150); do
            [ "$(cat "$dir"/silent.* | wc -l)" = 3 ] && break
            sleep 0.1
        done
        check 'who says nothing for 10 s is gone' \
            'cat "$dir"/silent.*; [ $(cat "$dir"/silent.* | wc -l) = 3 ] && ! awk "\$2 > 13000" "$dir"/silent.* | grep .'
    fi
    was_steady 'strangers' 4000
}

# ---- [disk] what a host's disk refuses -----------------------------------------------------------
disk() {
    local small=$dir/small
    export small
    mkdir -p "$small"
    if ! mount -t tmpfs -o size=3M tmpfs "$small" 2>/dev/null; then
        skip 'a full disk' 'no tmpfs can be mounted'
    else
        mounts="$mounts $small"
        data=$small
        host "$data"
        mount_at "$mnt"
        "$trouble" work "$mnt" "$dir/full" "$(choose 200 2000)" 5 >"$dir/full.said" 2>&1
        status=$?
        check 'a full disk: it is said so, and nothing acknowledged is lost' \
            "tail -n 2 '$dir/full.said'; [ $status = 0 ] && grep -q 'No space left' '$dir/full.said' &&
            '$trouble' verify '$small' '$dir/full' && '$trouble' verify '$mnt' '$dir/full'"
        check 'a full disk: dd is told' \
            '! dd if=/dev/zero of="$mnt/zeros" bs=64k count=100 conv=fsync 2>"$dir/err" && grep -q "No space left" "$dir/err"'
        rm -f "$small"/5-file-*0 "$small/zeros"
        check 'with room again the mount goes on' 'usable "$mnt" && same "$small" "$mnt"'
        rm -f "$small"/*
        check 'and all is written' \
            "'$trouble' work '$mnt' '$dir/roomy' 30 6 | tee '$dir/said' && grep -q ' 0 refused' '$dir/said' && '$trouble' verify '$small' '$dir/roomy'"
        mount -o remount,ro "$small" 2>/dev/null
        if touch "$small/x" 2>/dev/null; then skip 'a disk turned read-only' 'it cannot be made so'; else
            check 'a disk turned read-only: every change says so' \
                '! touch "$mnt/new" 2>"$dir/err" && grep -q Read-only "$dir/err" && ! mkdir "$mnt/dir" 2>"$dir/err" && grep -q Read-only "$dir/err"'
        fi
        mount -o remount,rw "$small"
        check 'and when it is not any more, the mount goes on' 'usable "$mnt"'
        stop_host
        unmount_at "$mnt"
        umount "$small"
    fi

    data=$dir/data
    rm -f "$dir/url"
    (ulimit -f 100 && exec "$bin/fsb-host" --listen "unix:$dir/limited" --log "$dir/limited.log" "$data") >"$dir/url" &
    host_pid=$!
    until [ -s "$dir/url" ] || ! kill -0 $host_pid 2>/dev/null; do sleep 0.02; done
    url=$(cat "$dir/url")
    mount_at "$mnt"
    check 'a file too large for the host: dd is told, the host lives on' \
        '! dd if=/dev/zero of="$mnt/zeros" bs=64k count=10 conv=fsync 2>"$dir/err" && grep -q "too large" "$dir/err" && usable "$mnt"'
    check 'and what did go in is there' '[ $(stat -c %s "$data/zeros") = $(stat -c %s "$mnt/zeros") ]'
    unmount_at "$mnt"
    stop_host

    if ! mount -t tmpfs -o size=8M,mode=777,usrquota,usrquota_block_hardlimit=1M tmpfs "$small" 2>/dev/null; then
        skip 'a quota' 'no tmpfs with quotas can be mounted'
        return
    fi
    chmod 755 "$dir"
    mkdir -m 777 "$dir/theirs"
    setpriv --reuid 65534 --regid 65534 --clear-groups "$bin/fsb-host" --listen "unix:$dir/theirs/sock" \
        "$small" >"$dir/theirs/url" 2>"$dir/theirs.log" &
    host_pid=$!
    until [ -s "$dir/theirs/url" ] || ! kill -0 $host_pid 2>/dev/null; do sleep 0.02; done
    url=$(cat "$dir/theirs/url")
    mount_at "$mnt"
    check 'a quota that is used up: dd is told' \
        '! dd if=/dev/zero of="$mnt/zeros" bs=64k count=40 conv=fsync 2>"$dir/err" && grep -qi quota "$dir/err"'
    check 'and with room again the mount goes on' 'rm "$mnt/zeros" && usable "$mnt"'
    unmount_at "$mnt"
}

case $stage in
tcp | tls) wire ;;
host) host_stage ;;
strangers) strangers ;;
disk) disk ;;
dropped) dropped ;;
*) echo "e2e_faults: no stage $stage" ; exit 2 ;;
esac
finish
