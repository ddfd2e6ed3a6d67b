#!/usr/bin/env bash
# e2e_status.sh: what --status and fsb status tell, and what --audit writes down.
. "$(dirname "$0")/e2e.sh"
begin e2e_status
export dir mnt data bin
echo hello >"$data/file"

host --status "unix:$dir/status" --audit "$dir/audit" "$data"
mount_at "$mnt" --status "unix:$dir/mounted"
export url
number() { # NAME ADDRESS: its value
    "$bin/fsb" status --metrics "$2" | awk -v name="$1" '$1 == name { print $2 }'
}
raw() { # BYTES: they go to the host's status socket as they are; prints the answer
    python3 -c 'import socket, sys
s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(sys.argv[1])
s.sendall(sys.argv[2].encode().decode("unicode_escape").encode("latin-1"))
answer = b""
try:
    while True:
        part = s.recv(65536)
        if not part: break
        answer += part
except ConnectionError: pass
sys.stdout.write(answer.decode())' "$dir/status" "$1"
}
export -f number raw

# ---- numbers ----
check 'the host counts what a mount asks' \
    'before=$(number fsb_requests_total "unix:$dir/status"); cat "$mnt/file" && touch "$mnt/new" &&
    [ $(number fsb_requests_total "unix:$dir/status") -gt $before ]'
check 'one client, which holds a lease or not, on one share' \
    '[ $(number fsb_clients "unix:$dir/status") = 1 ] && [ $(number fsb_shares "unix:$dir/status") = 1 ] &&
    [ $(number fsb_leases "unix:$dir/status") = $(number fsb_leased "unix:$dir/mounted") ]'
check 'bytes are counted both ways' \
    'a=$(number fsb_received_bytes_total "unix:$dir/status"); head -c 3000000 /dev/zero >"$mnt/zeros"; sync "$mnt/zeros"
    [ $(($(number fsb_received_bytes_total "unix:$dir/status") - a)) -ge 3000000 ] &&
    [ $(number fsb_sent_bytes_total "unix:$dir/status") -gt 0 ]'
check 'the histogram only grows, up to the number of requests' \
    '"$bin/fsb" status --metrics "unix:$dir/status" >"$dir/metrics" &&
    awk "/_bucket/ { if (\$2 < last) exit 1; last = \$2; ++n } /_count/ { count = \$2 }
         END { exit !(n == 24 && last == count && count > 0) }" "$dir/metrics"'
check 'every line of it is of the format' \
    '! grep -vE "^# (HELP|TYPE) fsb_[a-z_]+ .+$|^fsb_[a-z_]+(\{[a-z]+=\"[^\"]*\"\})? [0-9.]+$" "$dir/metrics"'
check 'for people it is short, and has the percentiles' \
    '"$bin/fsb" status "unix:$dir/status" >"$dir/view" && grep -q "^clients connected *1$" "$dir/view" &&
    grep -q "99 % under" "$dir/view" && [ $(wc -l <"$dir/view") -lt 45 ]'
mkdir "$dir/many"
for i in $(seq 150); do head -c 4096 /dev/urandom >"$dir/many/$i"; done
check 'a folder that is moved there, whole, shows' \
    '[ ! -e "$mnt/many" ] && mv "$dir/many" "$data" && soon "[ -e $mnt/many ]"' # no more is told of it
check 'small files read by names that nobody listed come together, and once (under a lease)' \
    'a=$(number fsb_requests_total "unix:$dir/status") b=$(number fsb_sent_bytes_total "unix:$dir/status")
    for i in $(seq 150); do cmp "$mnt/many/$i" "$data/many/$i" || exit 1; done
    [ $(number fsb_leases "unix:$dir/status") = 0 ] ||
    { [ $(($(number fsb_requests_total "unix:$dir/status") - a)) -lt 40 ] &&
    [ $(($(number fsb_sent_bytes_total "unix:$dir/status") - b)) -lt 1000000 ]; }'
check 'the mount counts its cache' \
    'a=$(number fsb_cache_data_hits_total "unix:$dir/mounted"); for _ in 1 2 3; do dd if="$mnt/file" iflag=direct bs=4k of=/dev/null; done
    number fsb_cache_attribute_hits_total "unix:$dir/mounted" | grep -q . && [ $(number fsb_cache_data_hits_total "unix:$dir/mounted") -ge $a ] &&
    [ $(number fsb_calls_total "unix:$dir/mounted") -gt 0 ] && [ $(number fsb_reconnects_total "unix:$dir/mounted") = 0 ]'
check 'fsb status of a URL connects as a mount would' \
    '"$bin/fsb" status "$url" | grep -q "^rights  *read and write$"'
check 'the socket is its owner'"'"'s alone' '[ $(stat -c %a "$dir/status") = 600 ]'

# ---- hostile questions ----
check 'another path, another method' \
    'raw "GET /etc/passwd HTTP/1.0\r\n\r\n" | grep -q "^HTTP/1.0 404 " && raw "POST / HTTP/1.0\r\n\r\n" | grep -q "^HTTP/1.0 405 "'
check 'a zero byte, and 100 KB without an end: no answer' \
    '[ -z "$(raw "GET \0 /\r\n\r\n")" ] && [ -z "$(raw "$(head -c 100000 /dev/zero | tr "\0" x)" 2>/dev/null)" ]'
check 'who says nothing is in nobody'"'"'s way for long' \
    'python3 -c "import socket, sys, time
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); time.sleep(8)" "$dir/status" & sleep 0.2
    SECONDS=0; number fsb_clients "unix:$dir/status" | grep -qx 1; got=$?; kill $!; [ $got = 0 ] && [ $SECONDS -lt 5 ]'
check 'random bytes for a while: it still answers' \
    'for i in $(seq 20); do head -c 5000 /dev/urandom | timeout 5 python3 -c "import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
try: s.sendall(sys.stdin.buffer.read())
except OSError: pass" "$dir/status"; done; [ $(number fsb_clients "unix:$dir/status") = 1 ]'
check 'only the loopback, unless asked for' \
    '"$bin/fsb-host" --listen "unix:$dir/other" --status 0.0.0.0:0 "$data" 2>"$dir/err"; [ $? = 1 ] && grep -q "public:" "$dir/err"'
check 'a status socket in use is not taken away' \
    '"$bin/fsb-host" --listen "unix:$dir/other" --status "unix:$dir/status" "$data" 2>"$dir/err"; [ $? = 1 ] && grep -q "in use" "$dir/err" && number fsb_clients "unix:$dir/status" | grep -qx 1'

# ---- TCP ----
"$bin/fsb-host" -v --listen "unix:$dir/tcp" --status 127.0.0.1:0 "$data" >"$dir/tcp.url" 2>"$dir/tcp.log" & tcp=$!
for _ in $(seq 1200); do grep -q 'status is at' "$dir/tcp.log" && [ -s "$dir/tcp.url" ] && break; sleep 0.05; done
export port=$(sed -n 's|.*status is at http://\(.*\)/$|\1|p' "$dir/tcp.log")
check 'on TCP, also for a browser' '"$bin/fsb" status "$port" | grep -q "folders served" && python3 -c "import sys, urllib.request
sys.exit(b\"fsb_clients 0\" not in urllib.request.urlopen(\"http://$port/metrics\", timeout=10).read())"'
kill $tcp; wait $tcp
check 'it ends cleanly' "[ $? = 0 ]"

# ---- the audit log ----
soon 'grep -q " data \(write\|put\) /zeros - ok\$" "$dir/audit"'
cut -d' ' -f2- "$dir/audit" >"$dir/lines"
check 'who came, without a code' 'grep -qx "1 - data connect - - ok" "$dir/lines"'
check 'a new file, its bytes' \
    'grep -qx "1 - data \(create\|put\) /new - ok" "$dir/lines" && grep -q "^1 - data write /zeros - ok$\|^1 - data put /zeros - ok$" "$dir/lines"'
check 'reading is not written down' '! grep -q " /file " "$dir/lines"'
check 'names are one word, whatever is in them; both names of a rename' \
    'touch "$mnt/a" && mv "$mnt/a" "$mnt/b"$'"'"'\n\e[31m \\'"'"' && soon "grep -q \"data rename /a \" $dir/audit" &&
    grep -qF "data rename /a /b\\x0a\\x1b[31m\\x20\\x5c ok" "$dir/audit" && ! grep -q "[^ -~]" "$dir/audit"'
check 'what fails is there too, with the reason' \
    'mkdir -p "$mnt/full/x"; ! "$bin/fsb" rm "$url/full" 2>/dev/null; soon "grep -q \"Is a directory\\|Directory not empty\" $dir/audit"'
check 'all of it has eight fields and a time' \
    '! grep -vE "^[0-9-]{10}T[0-9:.]{12}Z [0-9]+ [^ ]+ [^ ]+ [a-z]+ [^ ]+ [^ ]+ [A-Za-z ]+" "$dir/audit"'
unmount_at "$mnt"
check 'who left' 'soon "grep -q \" 1 - data leave - - ok\$\" $dir/audit"'
check 'the mount took its socket with it' '[ ! -e "$dir/mounted" ]'
check 'the audit log is its owner'"'"'s alone' '[ $(stat -c %a "$dir/audit") = 600 ]'
stop_host
check 'and so did the host' '[ ! -e "$dir/status" ]'

# ---- who is refused ----
rm -f "$dir/audit"
host --read-only --max-clients 1 --audit "$dir/audit" "$data"
check 'a change that is not allowed' '! "$bin/fsb" mkdir "$url/no" 2>/dev/null
    soon "grep -q \" data [a-z]* /no - Permission denied\$\" $dir/audit"'
mounts="$mounts $mnt"
soon '"$bin/fsb-mount" --log "$dir/mount.log" "$url" "$mnt" 2>/dev/null' # when the other has left
check 'a client too many, and a mount that knows that it cannot write' \
    '! "$bin/fsb" ls "$url" 2>/dev/null; ! touch "$mnt/no" 2>"$dir/err"
    grep -q Read-only "$dir/err" && soon "grep -q \" 0 - - refused - - \" $dir/audit"'
unmount_at "$mnt"
stop_host

# ---- limits ----
limit() { number "fsb_limit{option=\"$1\"}" "unix:$dir/status"; }
export -f limit
host --status "unix:$dir/status" "$data"
check 'the limits, as long as nobody sets them' \
    '[ "$(for o in max-clients handshake-timeout max-unproven max-unproven-each request-timeout keep threads max-requests max-bytes max-handles max-locks max-events max-execs max-execs-each; do limit $o; done | tr "\n" " ")" = \
     "1024 10 64 16 30 60 8 256 16777216 16384 8192 16384 64 16 " ]'
check 'people see them too' '"$bin/fsb" status "unix:$dir/status" | grep -q "^  handshake-timeout  *10$"'
stop_host
host --status "unix:$dir/status" --audit "$dir/audit2" --allow-exec --max-clients 9 --handshake-timeout 1 --max-unproven 3 --max-unproven-each 2 \
    --request-timeout 20 --keep 0 --threads 2 --max-requests 5 --max-bytes 4M --max-handles 7 --max-locks 3 \
    --max-events 100 --max-execs 4 --max-execs-each 2 --listen tls:127.0.0.1:0 "$data"
check 'each as it was set' \
    '[ "$(for o in max-clients handshake-timeout max-unproven max-unproven-each request-timeout keep threads max-requests max-bytes max-handles max-locks max-events max-execs max-execs-each; do limit $o; done | tr "\n" " ")" = \
     "9 1 3 2 20 0 2 5 4194304 7 3 100 4 2 " ]'
check 'none takes what is no number, or too much' \
    'for o in "--max-handles 0" "--threads x" "--max-bytes 1K" "--max-execs 9999" "--handshake-timeout 0"; do
        "$bin/fsb-host" --listen "unix:$dir/other" $o "$data" 2>/dev/null; [ $? = 2 ] || { echo "$o"; exit 1; }; done'
check 'who does not say hello is gone after a second' \
    'python3 -c "import socket, sys, time
s = socket.socket(socket.AF_UNIX); s.settimeout(8); begun = time.time(); s.connect(sys.argv[1])
try: s.recv(1)
except ConnectionError: pass
sys.exit(not 0.8 < time.time() - begun < 6)" "$dir/sock"'
check 'of those without a code two from here, three in all: the youngest' \
    'python3 -c "import socket, sys, time
def peers(address, n):
    made = []
    for _ in range(n):
        s = socket.create_connection((\"127.0.0.1\", int(sys.argv[1])), 8, (address, 0)); s.setblocking(False); made.append(s)
    return made
def alive(list):
    n = 0
    for s in list:
        try: n += s.recv(1) != b\"\"
        except BlockingIOError: n += 1
        except ConnectionError: pass
    return n
for _ in range(5): # they have a second, which a busy machine may spend elsewhere
    a = peers(\"127.0.0.2\", 5); b = peers(\"127.0.0.3\", 5); time.sleep(0.4)
    left = alive(a), alive(b)
    if left == (1, 2): sys.exit(0)
    for s in a + b: s.close()
    time.sleep(1.2)
sys.exit(str(left))" "$(sed -n "2s|.*:\([0-9]*\)/.*|\1|p" "$dir/url")"'
mount_at "$mnt" -o remote_locks
check 'open files, locks' \
    'python3 -c "import errno, fcntl, os, sys
os.chdir(sys.argv[1]); made = []
try:
    for i in range(20): made.append(open(str(i), \"w\"))
    sys.exit(1)
except OSError as e:
    if e.errno != errno.EMFILE: sys.exit(2)
for f in made[1:]: f.close()
try:
    for i in range(9): fcntl.lockf(made[0], fcntl.LOCK_EX, 1, 2 * i)
    sys.exit(3)
except OSError as e: sys.exit(e.errno != errno.ENOLCK)" "$mnt"'
unmount_at "$mnt"
check 'requests under way' '"$bin/fsb" status "$url" | grep -q "^requests at once  *5$"'
check 'the audit log names commands, and where they ran' \
    'for i in 1 2; do "$bin/fsb" exec -n "$url" sleep 0.1 || exit 1; done
    soon "[ \$(grep -c \" exec / sleep ok\$\" $dir/audit2) = 2 ]"'
finish
