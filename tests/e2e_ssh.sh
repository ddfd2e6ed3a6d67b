#!/usr/bin/env bash
# e2e_ssh.sh: logging in over ssh, as a user meets it: hosts that are not known, or not who they
# were, passwords, keys, agents, locked accounts, servers that hang up at any stage or never stop.
. "$(dirname "$0")/e2e.sh"
name=e2e_ssh
dir=$(mktemp -d "${TMPDIR:-/tmp}/fsb-e2e-XXXXXX") || exit 1
export PATH=$bin:$PATH:/usr/sbin
cd "$dir" || exit 1
pids=
made_user= subsystem=internal-sftp
end_all() {
    for p in $pids; do kill "$p" 2>/dev/null; done
    [ -z "$made_user" ] || userdel "$made_user" 2>/dev/null
    cd / && rm -rf --one-file-system "$dir"
}
trap end_all EXIT
trap 'exit 1' INT TERM HUP
if ! command -v sshd >/dev/null || ! command -v ssh >/dev/null; then
    skip "$name" "sshd or ssh is missing"
    finish
fi
unset SSH_AUTH_SOCK FSB_PASSWORD

ssh-keygen -q -t ed25519 -N '' -f host_key && ssh-keygen -q -t ed25519 -N '' -f user_key
ssh-keygen -q -t ed25519 -N 'locked away' -f phrase_key
cat user_key.pub phrase_key.pub >keys
chmod 755 . && chmod 644 keys
[ "$(id -u)" != 0 ] || mkdir -p /run/sshd
start_sshd() { # OPTIONS...: $port, $log
    for _ in $(seq 20); do
        port=$((20000 + RANDOM % 12000)) log=$dir/sshd.$port # below those that are given away
        "$(command -v sshd)" -D -f /dev/null -p $port -h "$dir/host_key" -E "$log" \
            -o ListenAddress=127.0.0.1 -o PidFile=none -o "AuthorizedKeysFile=$dir/keys" \
            -o StrictModes=no -o PermitRootLogin=yes -o UsePAM=no -o "Subsystem=sftp $subsystem" "$@" &
        sshd_pid=$!
        pids="$pids $sshd_pid"
        for _ in $(seq 200); do
            grep -q "listening on 127.0.0.1 port $port" "$log" 2>/dev/null && return 0
            kill -0 $sshd_pid 2>/dev/null || break
            sleep 0.05
        done
    done
    return 1
}
start_sshd || { skip "$name" "sshd does not start here"; finish; }
mkdir far && echo here >far/file
me=$(id -un)
there=sftp://$me@127.0.0.1:$port$dir/far
export FSB_SSH="ssh -F /dev/null -oUserKnownHostsFile=$dir/known -oIdentitiesOnly=yes"
key="-i $dir/user_key"
knows() { echo "[127.0.0.1]:$port $(cut -d ' ' -f 1-2 "$1")" >known; }
fails() { # WORD CMD: it fails soon, saying WORD, and leaves no process behind
    check "$1" "! timeout 20 $3 >out 2>said </dev/null && grep -q -- '$2' said && grep -q '^fsb: ' said"
}

# ---- [hosts] -------------------------------------------------------------------------------------
: >known
fails "an unknown host is refused without a question to ask" "Host key verification failed" \
    "fsb ls -o BatchMode=yes $key $there"
check "accept-new: it is believed once, and known from then on" \
    "fsb ls -o StrictHostKeyChecking=accept-new $key $there | grep -q file && grep -q ssh-ed25519 known &&
     fsb ls -o BatchMode=yes $key $there"
knows user_key.pub
fails "another host key is refused" "IDENTIFICATION HAS CHANGED" "fsb ls $key $there"
check "with the fingerprint that it has, and the one that was known" \
    "grep -q \"\$(ssh-keygen -lf host_key.pub | cut -d ' ' -f 2)\" said &&
     grep -q \"\$(ssh-keygen -lf user_key.pub | cut -d ' ' -f 2)\" said"
fails "accept-new does not help there" "IDENTIFICATION HAS CHANGED" \
    "fsb ls -o StrictHostKeyChecking=accept-new $key $there"
knows host_key.pub

# ---- [keys and passwords] ------------------------------------------------------------------------
check "a key file, compression, keep-alives" \
    "fsb ls -C -o ServerAliveInterval=1 $key $there | grep -q file"
fails "no agent, no key: it says so" "Permission denied" "fsb ls -o BatchMode=yes $there"
check "a key with a passphrase, out of a file" "echo 'locked away' >phrase &&
    fsb ls --password-file phrase -i $dir/phrase_key $there | grep -q file"
check "or out of the environment" "FSB_PASSWORD='locked away' fsb cat -i $dir/phrase_key $there/file | grep here"
fails "a wrong one" "Permission denied" \
    "env FSB_PASSWORD=wrong fsb ls -i $dir/phrase_key $there"
check "an agent" "eval \"\$(ssh-agent)\" >/dev/null; trap 'kill \$SSH_AGENT_PID' EXIT; ssh-add -q $dir/user_key 2>/dev/null &&
    FSB_SSH='ssh -F /dev/null -oUserKnownHostsFile=$dir/known' fsb ls $there | grep -q file"
if [ "$(id -u)" = 0 ] && command -v useradd >/dev/null && command -v chpasswd >/dev/null; then
    made_user=fsbt$$
    useradd -M -d "$dir" -s /bin/sh $made_user && echo "$made_user:let me in" | chpasswd
    user=sftp://$made_user@127.0.0.1:$port$dir/far
    only="-o PubkeyAuthentication=no"
    echo 'let me in' >password && chmod 600 password
    check "a password, out of a file" "fsb ls $only --password-file password $user | grep -q file"
    check "which stands in no argument" "fsb exec -n $only --password-file password $user sleep 2 &
        soon 'cat /proc/[0-9]*/cmdline >cmdlines; grep -qa UserKnown[H]osts cmdlines'; wait
        grep -qa UserKnown[H]osts cmdlines && ! grep -qa 'let m[e] in' cmdlines"
    fails "a wrong password" "Permission denied" "env FSB_PASSWORD=guess fsb ls $only $user"
    if start_sshd -o PasswordAuthentication=no -o KbdInteractiveAuthentication=yes &&
        knows host_key.pub && FSB_PASSWORD='let me in' fsb ls $only \
            sftp://$made_user@127.0.0.1:$port/ >/dev/null 2>&1; then
        passed=$((passed + 1)) && echo "ok   keyboard-interactive"
    else
        skip "keyboard-interactive" "this sshd has no way to ask without PAM"
    fi
    usermod -L -e 1 $made_user
    port=${there#*127.0.0.1:} port=${port%%/*}
    knows host_key.pub
    fails "a locked account" "Permission denied\|Connection closed" \
        "env FSB_PASSWORD='let me in' fsb ls $only $user"
    userdel $made_user 2>/dev/null
    made_user=
else
    skip "passwords" "making a user needs root"
fi
check "exec over the same login" "fsb exec -n $key $there cat file | grep -q here"
subsystem=/bin/false
start_sshd && knows host_key.pub
fails "no SFTP server there" "runs no SFTP server\|ssh says why" \
    "fsb ls $key sftp://$me@127.0.0.1:$port/"

# ---- [servers that misbehave] --------------------------------------------------------------------
cat >bad.py <<'END'
import socket, sys, time
how, s = sys.argv[1], socket.socket()
s.bind(('127.0.0.1', 0))
s.listen(5)
print(s.getsockname()[1], flush=True)
while True:
    c = s.accept()[0]
    try:
        if how == 'silent': time.sleep(60)
        if how == 'banner':
            while True: c.sendall(b'welcome to this machine\r\n' * 100)
        if how == 'drip':
            while True: c.sendall(b'w'), time.sleep(0.05)
        if how == 'hello': c.sendall(b'SSH-2.0-x\r\n'), c.recv(999)
        if how == 'noise': c.sendall(b'SSH-2.0-x\r\n'), c.recv(99), c.sendall(b'\xff' * 5000), c.recv(99999)
    except OSError: pass
    c.close()
END
misbehaves() { # HOW WORD
    python3 bad.py "$1" >at 2>/dev/null &
    pids="$pids $!"
    for _ in $(seq 1000); do [ -s at ] && break; sleep 0.02; done
    fails "a server that is like: $1" "$2" "fsb ls --timeout 2 $key sftp://$me@127.0.0.1:$(cat at)/"
    : >at
}
if command -v python3 >/dev/null; then
    misbehaves closed "Connection closed\|kex_exchange_identification"
    misbehaves silent "timed out\|closed"
    misbehaves banner "banner\|identification\|closed"
    misbehaves drip "timed out\|closed"
    misbehaves hello "closed\|reset"
    misbehaves noise "closed\|reset\|packet\|length"
else
    skip "servers that misbehave" "python3 is missing"
fi
fails "nobody there" "Connection refused" "fsb ls $key sftp://$me@127.0.0.1:1/"
check "no ssh is left behind" "soon '! pgrep -f \"ssh .*$dir/known.*sftp\\\$\"'"
finish
