#!/usr/bin/env bash
# e2e_files.sh: fsb ls, cp, sync, ... on this machine, on an fsb host, and over a real sshd that
# runs fsb-host, or only SFTP.
. "$(dirname "$0")/e2e.sh"
begin e2e_files
export PATH=$bin:$PATH:/usr/sbin
cd "$dir" || exit 1
sshd_pid=
end_sshd() { [ -z "$sshd_pid" ] || kill "$sshd_pid" 2>/dev/null; }
trap 'end_sshd; clean_up' EXIT

# ---- [data] --------------------------------------------------------------------------------------
mkdir -p tree/a/b tree/empty "tree/odd name"
for i in $(seq 60); do echo "file $i" >"tree/a/f$i"; done
head -c 20000000 /dev/urandom >tree/big
: >tree/a/b/nothing
printf 'x' >"tree/odd name/"$'new\nline\xff'
ln -s ../big tree/a/link
chmod 640 tree/a/f1
touch -d '2020-02-02 02:02:02' tree/a/f2

# everything that a place must do; WHAT URL: an empty folder
works_at() {
    local what=$1 url=$2
    check "$what: cp -r there" "fsb cp -rp tree '$url/copy' && fsb cp -rp '$url/copy' 'back $what'"
    check "$what: and back, the same" "diff -r --no-dereference tree 'back $what' &&
        [ \$(stat -c %Y 'back $what/a/f2') = \$(stat -c %Y tree/a/f2) ] &&
        [ \$(stat -c %a 'back $what/a/f1') = 640 ]"
    check "$what: ls" "[ \"\$(fsb ls '$url/copy')\" = \"\$(LC_ALL=C ls tree)\" ]"
    check "$what: ls -l" "fsb ls -l '$url/copy' | grep -q '^-.* 20000000 .* big$'"
    check "$what: cat" "fsb cat '$url/copy/big' | cmp - tree/big"
    check "$what: cat of two" "[ \$(fsb cat '$url/copy/a/f1' '$url/copy/a/f2' | wc -l) = 2 ]"
    check "$what: stat" "fsb stat --json '$url/copy/big' | grep -q '\"size\":20000000'"
    check "$what: find" "[ \$(fsb find '$url/copy' 'f1?' | wc -l) = 10 ]"
    check "$what: tree" "fsb tree '$url/copy' | grep -q -- '-- nothing'"
    check "$what: du" "fsb du '$url/copy' | grep -q '^2000'"
    check "$what: mkdir" "fsb mkdir '$url/new' && ! fsb mkdir '$url/new' && fsb mkdir -p '$url/new'"
    check "$what: cp into a folder" "fsb cp tree/a/f1 tree/a/f2 '$url/new' && fsb ls '$url/new' | grep f2"
    check "$what: mv" "fsb mv '$url/new' '$url/newer' && fsb cat '$url/newer/f1'"
    check "$what: sync says, and does nothing" "rm -rf new.$what; cp -a tree 'new $what';
        echo more >'new $what/a/f3'; rm 'new $what/a/f4'; echo >'new $what/added';
        fsb sync --delete --dry-run 'new $what' '$url/copy' | sort >said;
        grep -q '^copy /.*/a/f3$' said && grep -q '^copy /.*/added' said &&
        grep -q '^delete /.*a/f4' said && [ \$(wc -l <said) -le 4 ] && fsb cat '$url/copy/a/f4'"
    check "$what: sync" "fsb sync --delete 'new $what' '$url/copy' &&
        fsb sync --delete --json 'new $what' '$url/copy' | grep -q '\"files\":0,' &&
        fsb cp -r '$url/copy' 'again $what' && diff -r --no-dereference 'new $what' 'again $what'"
    check "$what: rm wants -r" "! fsb rm '$url/copy' && fsb rm -r '$url/copy' '$url/newer' &&
        ! fsb rm '$url/none' && fsb rm -f '$url/none' && [ -z \"\$(fsb ls '$url')\" ]"
    check "$what: cp --resume, verified, again with nothing to do" "
        fsb cp -r --resume --verify tree '$url' && fsb cp -r --resume --json tree '$url' |
        grep -q '\"files\":0,' && fsb rm -r '$url/tree'"
    check "$what: bench, which leaves nothing" "fsb bench --json --size 1M '$url' |
        grep -q 'read it' && [ -z \"\$(fsb ls '$url')\" ]"
    check "$what: what is not there" "! fsb cat '$url/none' 2>said && grep -q 'No such file' said"
}

# ---- [here, and an fsb host] ---------------------------------------------------------------------
check "help" "fsb ls --help | grep -q ssh://"
check "wrong usage" "fsb cp; [ \$? = 2 ] && { fsb ls bogus://x; [ \$? = 2 ]; }"
mkdir here
works_at here "$dir/here"
check "mkdir -p" "fsb mkdir -p here/x/y/z && [ -d here/x/y/z ] && fsb rm -r here/x"
check "json of cp" "fsb cp --json -r tree here/j | grep -q '\"ok\":true' && fsb rm -r here/j"
check "names of folders" "cd tree && [ \$(fsb ls . | wc -l) = 4 ] && [ \$(fsb ls ../tree/a/.. | wc -l) = 4 ]"
# what a command must do; WHAT URL
runs_at() {
    check "$1: exec, with its exit status" "[ \"\$(fsb exec -n '$2' -c 'pwd; exit 3')\" = \"\$PWD/$3\" ] &&
        { fsb exec '$2' -- sh -c 'echo out; echo to stderr >&2; exit 3' </dev/null 2>said >out
          [ \$? = 3 ]; } && [ \"\$(cat said)\" = 'to stderr' ] && [ \"\$(cat out)\" = out ]"
    check "$1: exec, with stdin" "[ \$(head -c 100000 tree/big | fsb exec '$2' wc -c) = 100000 ]"
    check "$1: exec, and its end by a signal" "fsb exec -n '$2' -c 'kill -9 \$\$'; [ \$? = 137 ]"
    check "$1: exec, of much output" "fsb exec -n '$2' cat '$dir/tree/big' | cmp - tree/big"
}
runs_at here "$dir/here" here
host data
works_at host "$url"
check "exec is not for every host" "! fsb exec -n '$url' true 2>said && grep -q 'Permission' said"
stop_host
mkdir run
host --allow-exec run
runs_at host "$url" run
stop_host

# ---- [ssh] ---------------------------------------------------------------------------------------
start_sshd() {
    command -v sshd >/dev/null && command -v ssh >/dev/null || return 1
    rm -f host_key* user_key*
    ssh-keygen -q -t ed25519 -N '' -f host_key && ssh-keygen -q -t ed25519 -N '' -f user_key || return 1
    cp user_key.pub keys
    [ "$(id -u)" != 0 ] || mkdir -p /run/sshd
    for _ in $(seq 20); do
        port=$((20000 + RANDOM % 12000)) # below those that are given away
        "$(command -v sshd)" -D -f /dev/null -p $port -h "$dir/host_key" -E "$dir/sshd.log" \
            -o ListenAddress=127.0.0.1 -o PidFile=none -o "AuthorizedKeysFile=$dir/keys" \
            -o StrictModes=no -o UsePAM=no -o PermitRootLogin=yes -o Subsystem='sftp internal-sftp' \
            -o "SetEnv=PATH=$1" &
        sshd_pid=$!
        for _ in $(seq 200); do
            grep -q "listening on 127.0.0.1 port $port" sshd.log 2>/dev/null && break 2
            kill -0 $sshd_pid 2>/dev/null || break
            sleep 0.05
        done
    done
    echo "[127.0.0.1]:$port $(cut -d ' ' -f 1-2 host_key.pub)" >known
    export FSB_SSH="ssh -F /dev/null -i $dir/user_key -oUserKnownHostsFile=$dir/known -oBatchMode=yes"
    $FSB_SSH -p $port 127.0.0.1 true
}
if start_sshd "$bin:/usr/bin:/bin"; then
    mkdir far
    works_at ssh "ssh://127.0.0.1:$port$dir/far"
    runs_at ssh "ssh://127.0.0.1:$port$dir/far" far
    works_at sftp "sftp://127.0.0.1:$port$dir/far"
    runs_at sftp "sftp://127.0.0.1:$port$dir/far" far
    check "sftp: exec ends with fsb" "fsb exec -n sftp://127.0.0.1:$port$dir/far -c 'sleep 77.5; :' &
        sleep 1; kill \$!; wait \$!; [ \$? = 143 ] && for i in \$(seq 40); do
        pgrep -f '^sleep 77.5' || exit 0; sleep 0.5; done; exit 1"
    url="ssh://127.0.0.1:$port$dir/tree"
    mount_at "$mnt"
    check "a mount over ssh" "cmp '$mnt/big' tree/big && diff -r --no-dereference '$mnt' tree"
    unmount_at "$mnt"
    url="sftp://127.0.0.1:$port$dir/tree"
    mount_at "$mnt"
    check "a mount over SFTP" "cmp '$mnt/big' tree/big && diff -r --no-dereference '$mnt' tree &&
        echo new >'$mnt/new' && grep new tree/new && rm '$mnt/new' && [ ! -e tree/new ]"
    unmount_at "$mnt"
    end_sshd
    if start_sshd "/usr/bin:/bin"; then
        check "ssh falls back to SFTP, and says so" \
            "fsb ls ssh://127.0.0.1:$port$dir/tree 2>said | grep -q big && grep -q 'SFTP does' said"
    fi
    sed -i "s| AAAA[^ ]*| $(cut -d ' ' -f 2 user_key.pub)|" known
    check "another host key is refused, with fingerprints" \
        "! fsb ls sftp://127.0.0.1:$port$dir/tree 2>said && grep -q 'IDENTIFICATION HAS CHANGED' said &&
         grep -q SHA256: said"
    end_sshd
else
    skip "ssh" "sshd is missing, or does not start here"
fi
finish
