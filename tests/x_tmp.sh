. tests/e2e.sh
begin e2e_x
cc -std=gnu11 -D_GNU_SOURCE -O1 -o "$dir/twin" tests/twin.c
chmod 755 "$dir"; chmod 777 "$data"
host "$data"
mount_at "$mnt" -o allow_other $OPTS
for seed in $SEEDS; do
mkdir -m 777 "$dir/l" "$data/s"
"$dir/twin" "$dir/l" "$mnt/s" $seed 4000 2>&1 | tail -${LINES_:-45}
rm -rf "$dir/l" "$data/s"
done
finish
