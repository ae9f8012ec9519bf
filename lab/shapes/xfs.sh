#!/bin/sh
# Run by mmdebstrap when the tree is furnished: makes an XFS of it in the disk image. It takes root
# and a loop device.
#   xfs.sh ROOT DISK OFFSET BYTES UUID
set -eu
root=$1 disk=$2 offset=$3 bytes=$4 uuid=$5
loop=$(losetup --find --show --offset "$offset" --sizelimit "$bytes" "$disk")
trap 'losetup --detach "$loop"' EXIT
mkfs.xfs -q -L root -m "uuid=$uuid" "$loop"
mkdir "$disk.tree" "$disk.mounted"
export root disk loop
unshare --mount sh -eu <<'SH'
mount "$loop" "$disk.mounted"
# As it is, without the /proc, /sys and /dev that are mounted there now.
mount --bind "$root" "$disk.tree"
cp -a "$disk.tree/." "$disk.mounted"
umount "$disk.mounted"
SH
