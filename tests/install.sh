#!/usr/bin/env bash
# install.sh demo|test|bench: installs what the demo, all tests, or the benches need.
# Quick when nothing is missing. FSB_NO_INSTALL=1 refuses: then it only says what is missing,
# and what cannot be built or run without it is left out. Exit 1: a compiler is missing.
set -u
role=${1:-demo}
missing=()

# need PACKAGE COMMAND: a probe that holds on any distribution; the names are Debian's.
need() { command -v "$2" >/dev/null 2>&1 || missing+=("$1"); }
need_library() { pkg-config --exists "$2" 2>/dev/null || missing+=("$1"); }
compiler() { command -v cc >/dev/null 2>&1; }
PATH=$PATH:/usr/sbin:/sbin

compiler || missing+=(gcc libc6-dev)
need pkg-config pkg-config
need fuse3 fusermount3
need_library libfuse3-dev fuse3
need_library liblmdb-dev lmdb
need_library libsqlite3-dev sqlite3
need_library libssl-dev openssl
need_library libzstd-dev libzstd
[ "$role" = bench ] && need_library libglib2.0-dev glib-2.0 # the cache is measured beside it
if [ "$role" = test ]; then
    need g++ g++
    need clang clang
    need musl-tools musl-gcc
    need valgrind valgrind
    need strace strace
    need git git
    need rsync rsync
    need sqlite3 sqlite3
    need tar tar
    need attr getfattr
    need acl getfacl
    need openssh-client ssh
    # On a running system its package would start a server that listens to the network.
    if ! command -v sshd >/dev/null 2>&1 && [ -d /run/systemd/system ]; then
        echo "install: openssh-server is left to you, as its package starts a service;" \
            "tests over ssh are skipped"
    else
        need openssh-server sshd
    fi
fi

[ ${#missing[@]} -gt 0 ] || exit 0
echo "install: missing for make $role: ${missing[*]}"

if [ "${FSB_NO_INSTALL:-0}" != 0 ]; then
    echo "install: refused by FSB_NO_INSTALL; what needs them is left out"
    compiler && exit 0
    exit 1
fi
root=()
[ "$(id -u)" = 0 ] || root=(sudo -n)
if ! command -v apt-get >/dev/null 2>&1 || ! "${root[@]}" true 2>/dev/null; then
    echo "install: this needs root and apt-get; please run, or have run:"
    echo "    sudo apt-get install ${missing[*]}"
    echo "install: or go on without by FSB_NO_INSTALL=1 make $role"
    exit 1
fi
echo "install: apt-get installs them now (FSB_NO_INSTALL=1 make $role would not)"
install() {
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 \
        install -y --no-install-recommends "${missing[@]}"
}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! install >"$log" 2>&1; then # perhaps the lists of packages are old, or were never fetched
    "${root[@]}" apt-get -qq update >>"$log" 2>&1
    if ! install >>"$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo "install: apt-get failed; FSB_NO_INSTALL=1 make $role goes on without" >&2
        exit 1
    fi
fi
echo "install: done"
