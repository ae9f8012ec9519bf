#!/bin/sh
# Run by mmdebstrap when the tree is furnished: makes an ext4 of its /boot in the disk image, and
# leaves an empty /boot.
#   own_boot.sh ROOT DISK OFFSET KIB UUID
set -eu
root=$1 disk=$2 offset=$3 kib=$4 uuid=$5
mke2fs -q -F -t ext4 -b 4096 -m 0 -L boot -U "$uuid" -E "offset=$offset,root_owner=0:0,nodiscard" \
    -d "$root/boot" "$disk" "${kib}k"
rm -rf "$root"/boot/*
