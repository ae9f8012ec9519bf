#!/bin/sh
# Run in the outer namespaces: shows a volume's file to the instance as a device.
# plug.sh DIRECTORY NAME FILE SECTORS SERIAL LOCK; a device without SERIAL is no NVMe device, one
# with LOCK, the options of a remount, is read-only.
set -e
directory=$1 name=$2 file=$3 sectors=$4 serial=$5 lock=$6
root=$directory/root

# Programs look devices up by number too, so each has one of its own, as good as any.
echo "$name" >>"$directory/plugged"
number=259:$(wc -l <"$directory/plugged")

block=$root/sys/block/$name
mkdir -p "$block/device" "$block/queue" "$root/sys/dev/block" "$root/dev/disk/by-id"
echo "$number" >"$block/dev"
ln -s "../../block/$name" "$root/sys/dev/block/$number"
echo "$sectors" >"$block/size"
echo 0 >"$block/removable"
echo 0 >"$block/ro"
echo 512 >"$block/queue/logical_block_size"
if [ -n "$serial" ]; then
    echo "$serial" >"$block/device/serial"
    echo "Amazon Elastic Block Store" >"$block/device/model"
    ln -sfn "../../$name" "$root/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_$serial"
fi

# Made ready outside what propagates: a remount would stay out here, a bind of it does not.
: >"$directory/plugging"
mount --bind "$file" "$directory/plugging"
if [ -n "$lock" ]; then
    mount -o "$lock" "$directory/plugging"
fi
: >"$root/dev/$name"
mount --bind "$directory/plugging" "$root/dev/$name"
umount "$directory/plugging"
