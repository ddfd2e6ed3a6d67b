#!/usr/bin/env bash
# e2e_twin.sh: the same random calls on the local file system and in a mount of it, compared.
# TWIN_SEEDS and TWIN_CALLS make it longer than the default of 8 times 4,000.
. "$(dirname "$0")/e2e.sh"
begin e2e_twin
export dir mnt data
cc=${CC:-cc}
$cc -std=gnu11 -D_GNU_SOURCE -O1 -o "$dir/twin" tests/twin.c || exit 1
chmod 755 "$dir"
chmod 777 "$data"
host "$data"
if [ "$(id -u)" = 0 ]; then mount_at "$mnt" -o allow_other ${TWIN_OPTIONS:-}; else mount_at "$mnt" ${TWIN_OPTIONS:-}; fi
first=${TWIN_FIRST:-1}
for seed in $(seq "$first" 2 $((first + ${TWIN_SEEDS:-8} - 1))); do
    mkdir -m 777 "$dir/local$seed" "$data/$seed" "$dir/other$seed" "$data/other$seed"
    check "seeds $seed and $((seed + 1)), side by side" "
        '$dir/twin' '$dir/local$seed' '$mnt/$seed' $seed ${TWIN_CALLS:-4000} & a=\$!
        '$dir/twin' '$dir/other$seed' '$mnt/other$seed' $((seed + 1)) ${TWIN_CALLS:-4000} & b=\$!
        wait \$a && wait \$b"
    rm -rf "$dir/local$seed" "$dir/other$seed" "$data/$seed" "$data/other$seed"
done
finish
