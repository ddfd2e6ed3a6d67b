#!/usr/bin/env bash
# e2e_work.sh: real work in a mount: trees compared, git, SQLite, tar, rsync, big folders, odd names.
. "$(dirname "$0")/e2e.sh"
begin e2e_work
export dir mnt data bin
export GIT_CONFIG_GLOBAL=$dir/gitconfig GIT_CONFIG_NOSYSTEM=1
printf '[user]\n\tname = t\n\temail = t@example.org\n[gc]\n\tauto = 0\n' >"$GIT_CONFIG_GLOBAL"

# A real tree of at least 5,000 files, and nothing that is not world readable.
mkdir "$data/tree"
cp -r /usr/include "$data/tree/include" 2>/dev/null
cp -r /usr/share/doc "$data/tree/doc" 2>/dev/null
cp -r /usr/share/perl* "$data/tree/" 2>/dev/null
count=$(find "$data/tree" -type f | wc -l)
host "$data"
if command -v python3 >/dev/null; then
    check 'a client written in another language from the documentation alone' \
        'python3 tests/foreign.py "$dir/sock" data "$data"'
else skip 'a client in another language' 'python3 is not installed'; fi
mount_at "$mnt"
check "the tree has at least 5,000 files ($count)" "[ $count -ge 5000 ]"
check 'diff -r, host to mount' 'diff -r --no-dereference "$data/tree" "$mnt/tree"'
check 'a copy made through the mount is the same on the host' \
    'cp -r "$mnt/tree/include" "$mnt/copy" && diff -r --no-dereference "$data/tree/include" "$data/copy" && diff -r --no-dereference "$data/copy" "$mnt/copy"'
check 'find sees the same names, sizes, modes, times' \
    'f="%P %y %m %s %n %T@\n"; diff <(cd "$data/tree" && find . -type f -printf "$f" | sort) <(cd "$mnt/tree" && find . -type f -printf "$f" | sort)'
check 'rm -r through the mount' 'rm -r "$mnt/copy" && [ ! -e "$data/copy" ]'

check 'build this project inside the mount' \
    'mkdir "$mnt/src" && tar cf - --exclude=./build --exclude=./.git . | tar xf - -C "$mnt/src" && make -C "$mnt/src" -s tools CFLAGS=-O1 && "$mnt/src/build/bin/fsb-host" --version'
check 'git init, add, commit, clone, gc, fsck' \
    'cd "$mnt" && mkdir repo && cd repo && git init -q . && cp -r "$mnt/tree/include/linux" . && git add . && git commit -qm one && for i in 1 2 3; do echo $i >f$i; git add f$i; git commit -qm $i; done && git clone -q . ../clone && cd ../clone && git gc -q && git fsck --strict && [ "$(git log --oneline | wc -l)" = 4 ] && git status --porcelain | wc -l | grep -qx 0'
if command -v sqlite3 >/dev/null; then
    check 'SQLite with WAL: two writers, integrity' \
        'cd "$mnt" || exit; sqlite3 db "PRAGMA journal_mode=WAL; CREATE TABLE t(a)" | grep wal &&
         w() { for i in $(seq 50); do sqlite3 -cmd ".timeout 20000" db "INSERT INTO t VALUES($1*1000+$i)" || return 1; done; }
         w 1 & a=$!; w 2 & b=$!; wait $a && wait $b && [ "$(sqlite3 db "SELECT count(DISTINCT a) FROM t")" = 100 ] && sqlite3 db "PRAGMA integrity_check" | grep -qx ok'
else skip SQLite 'sqlite3 is not installed'; fi
check 'tar x, with times and links' \
    'tar cf "$dir/t.tar" -C "$data/tree" include && mkdir "$mnt/tar" && tar xpf "$dir/t.tar" -C "$mnt/tar" && tar df "$dir/t.tar" -C "$mnt/tar"'
if command -v rsync >/dev/null; then
    check 'rsync -a twice: the second pass transfers nothing' \
        'rsync -a "$data/tree/include/" "$mnt/rsynced/" && rsync -a --itemize-changes "$data/tree/include/" "$mnt/rsynced/" | wc -l | grep -qx 0'
else skip rsync 'rsync is not installed'; fi
check 'two processes append to one file and lose no line' \
    'w() { for i in $(seq 2000); do echo "$1 line $i of many, long enough to be cut if anything cuts"; done >>"$mnt/log"; }
     w A & a=$!; w B & b=$!; wait $a && wait $b && [ "$(wc -l <"$data/log")" = 4000 ] && [ "$(grep -c "^[AB] line [0-9]* of many, long enough to be cut if anything cuts$" "$data/log")" = 4000 ]'
check 'a sparse file of 1 TB, read at its end' \
    'truncate -s 1T "$data/huge" && printf end | dd of="$data/huge" bs=1 seek=$(((1 << 40) - 3)) conv=notrunc status=none && [ "$(tail -c 3 "$mnt/huge")" = end ] && [ "$(stat -c %s "$mnt/huge")" = 1099511627776 ] && [ "$(stat -c %b "$mnt/huge")" -lt 1000 ]'
check 'a folder of 100,000 names, whole, once each' \
    'mkdir "$data/many" && (cd "$data/many" && seq -f n%06g 100000 | xargs touch) && [ "$(ls -U "$mnt/many" | sort | uniq | wc -l)" = 100000 ] && [ "$(ls -U "$mnt/many" | wc -l)" = 100000 ] && [ "$(ls -lU "$mnt/many" | tail -n +2 | wc -l)" = 100000 ]'
check 'names of 255 bytes, and of any bytes' \
    'long=$(printf "%0255d" 0) && echo a >"$mnt/$long" && [ -f "$data/$long" ] && mkdir "$mnt/odd" && perl -e '"'"'for my $c (1..46,48..255) { open(my $f, ">", "$ENV{mnt}/odd/x".chr($c)) or die "$c: $!"; print $f $c; close $f or die } opendir(my $d, "$ENV{data}/odd"); my @n = grep { !/^\.\.?$/ } readdir $d; die scalar @n if @n != 254; opendir($d, "$ENV{mnt}/odd"); @n = grep { !/^\.\.?$/ } readdir $d; die scalar @n if @n != 254;'"'"
check 'a name of 256 bytes is ENAMETOOLONG' '! touch "$mnt/$(printf "%0256d" 0)" 2>"$dir/err" && grep -q "too long" "$dir/err"'
check 'the mount ends cleanly, and so does the host' \
    'fusermount3 -u "$mnt" && for i in $(seq 400); do pgrep -f "[f]sb-mount.* $mnt\$" >/dev/null || break; sleep 0.05; done; ! pgrep -f "[f]sb-mount.* $mnt\$"'
kill "$host_pid" && wait "$host_pid"
check 'fsb-host ends with 0 and takes its socket away' "[ $? = 0 ] && [ ! -e '$dir/sock' ]"
host_pid=
finish
