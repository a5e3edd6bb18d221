#!/bin/sh
# verify-load.sh DEVICE MIB DIR: in the guest. Writes the first MIB MiB of DEVICE in random order and reads them back with checksums,
# round after round with other data, until DIR/stop exists. The number of complete rounds is in DIR/rounds.
device=$1 mib=$2 dir=$3 round=0
while [ ! -e "$dir/stop" ]; do
  round=$((round + 1))
  # No block is written twice in a round, so what must be read is known. The seed is part of what is checked: an old round's data is
  # an error as well.
  case $((round % 3)) in 0) block=64k ;; 1) block=4k ;; 2) block=16k ;; esac
  fio --name=round$round --filename="$device" --size="${mib}m" --bs=$block --rw=randwrite --direct=1 --ioengine=libaio --iodepth=16 \
    --randseed=$round --verify=crc32c --do_verify=1 --verify_fatal=1 --verify_state_save=0 --output="$dir/fio.txt" || { echo "round $round: exit code $?" | tee "$dir/failed"; exit 1; }
  echo $round >"$dir/rounds.new" && mv "$dir/rounds.new" "$dir/rounds"
done
