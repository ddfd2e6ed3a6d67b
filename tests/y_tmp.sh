. tests/e2e.sh
begin e2e_y
/tmp/small $data make; sync
host "$data"
for o in "--memory 0" ; do for r in 1 8; do
mount_at "$mnt" $o; echo "== '$o' readers $r"; /tmp/small $mnt $r; unmount_at $mnt
done; mount_at "$mnt" $o; echo "== '$o' names known"; /tmp/small $mnt 1 known; unmount_at $mnt; 
mount_at "$mnt" $o; echo "== find"; time find $mnt | wc -l; time find $mnt -type f -size +1k| wc -l;unmount_at $mnt; done
echo direct; /tmp/small $data 1
finish
