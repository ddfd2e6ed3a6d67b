#!/usr/bin/env bash
# peers.sh: installs what the benches measure fsb beside. Quick when nothing is missing.
# FSB_NO_INSTALL=1 refuses: then it only says what is missing, and the report leaves it out.
set -u
missing=()
PATH=$PATH:/usr/sbin:/sbin

need() { command -v "$2" >/dev/null 2>&1 || missing+=("$1"); }
need python3 python3
need sshfs sshfs
need rclone rclone
need openssh-client ssh-keygen
need rsync rsync
[ -r /usr/share/doc/libfuse3-dev/examples/passthrough_ll.c ] || missing+=(libfuse3-dev)
# On a running system these packages would start servers that listen to the network.
server() {
    if ! command -v "$2" >/dev/null 2>&1 && [ -d /run/systemd/system ]; then
        echo "peers: $1 is left to you, as its package may start a service; what needs it is left out"
    else
        need "$1" "$2"
    fi
}
server openssh-server sshd
server glusterfs-server glusterfsd

[ ${#missing[@]} -gt 0 ] || exit 0
echo "peers: missing: ${missing[*]}"
if [ "${FSB_NO_INSTALL:-0}" != 0 ]; then
    echo "peers: refused by FSB_NO_INSTALL; they are left out"
    exit 0
fi
root=()
[ "$(id -u)" = 0 ] || root=(sudo -n)
if ! command -v apt-get >/dev/null 2>&1 || ! "${root[@]}" true 2>/dev/null; then
    echo "peers: this needs root and apt-get; please run: sudo apt-get install ${missing[*]}"
    exit 1
fi
install() {
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 \
        install -y --no-install-recommends "${missing[@]}"
}
install >/dev/null 2>&1 || { # perhaps the lists of packages are old, or were never fetched
    "${root[@]}" apt-get -qq update && install
}
