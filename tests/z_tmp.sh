. tests/e2e.sh
begin e2e_z
mkdir $data/s; /tmp/small $data/s make; dd if=/dev/urandom of=$data/big bs=1M count=512 2>/dev/null; sync
host "$data"
for k in 1 2; do for o in 1 2 ; do export THR=$o
mount_at "$mnt" --memory 0; echo "== threads $o"; /tmp/small $mnt/s 1; /tmp/small $mnt/s 8; dd if=$mnt/big of=/dev/null bs=1M 2>&1 | tail -1; true; unmount_at $mnt
done; done
finish
