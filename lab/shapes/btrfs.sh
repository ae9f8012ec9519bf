#!/bin/sh
# Run by mmdebstrap when the tree is furnished: makes a btrfs of it in the disk image, with the
# subvolumes root and home, as Fedora has them. It takes root and a loop device.
#   btrfs.sh ROOT DISK OFFSET BYTES UUID
set -eu
root=$1 disk=$2 offset=$3 bytes=$4 uuid=$5
loop=$(losetup --find --show --offset "$offset" --sizelimit "$bytes" "$disk")
trap 'losetup --detach "$loop"' EXIT
mkfs.btrfs -q -L fedora -U "$uuid" "$loop"
mkdir "$disk.tree" "$disk.mounted"
export root disk loop
unshare --mount sh -eu <<'SH'
mount "$loop" "$disk.mounted"
btrfs -q subvolume create "$disk.mounted/root"
btrfs -q subvolume create "$disk.mounted/home"
# As it is, without the /proc, /sys and /dev that are mounted there now.
mount --bind "$root" "$disk.tree"
cp -a "$disk.tree/." "$disk.mounted/root"
umount "$disk.mounted"
SH
