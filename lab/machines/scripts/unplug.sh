#!/bin/sh
# Run in the outer namespaces: takes a device from the instance. What has it open keeps it open.
# unplug.sh DIRECTORY NAME SERIAL
set -e
directory=$1 name=$2 serial=$3
root=$directory/root

umount -l "$root/dev/$name"
rm -f "$root/dev/$name" "$root/sys/dev/block/$(cat "$root/sys/block/$name/dev")"
rm -rf "$root/sys/block/$name"
if [ -n "$serial" ]; then
    rm -f "$root/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_$serial"
fi
