#!/bin/sh
# Run by mmdebstrap when the tree is furnished: makes an ext4 of it in the disk image.
#   ext4.sh ROOT DISK OFFSET KIB UUID
set -eu
root=$1 disk=$2 offset=$3 kib=$4 uuid=$5
# As it is, without the /proc, /sys and /dev that are mounted there now.
mkdir "$disk.tree"
export root disk offset kib uuid
unshare --mount sh -eu <<'END'
mount --bind "$root" "$disk.tree"
cd "$disk.tree"
# Files of one age, so that the same packages make the same bytes.
find . -xdev -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
features=has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super
features=$features,large_file,huge_file,dir_nlink,extra_isize,metadata_csum
MKE2FS_CONFIG=/dev/null mke2fs -q -F -t ext4 -O "none,$features" -b 4096 -I 256 -m 0 -J size=16 \
    -L lab -U "$uuid" -E "offset=$offset,hash_seed=$uuid,root_owner=0:0,nodiscard" \
    -d . "$disk" "${kib}k"
END
