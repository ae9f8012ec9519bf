# Run by sh, as root, on a test instance whose root volume is larger than the image: check that the
# root partition reaches the end of the volume, and the file system the end of the partition. A
# logical volume, or an encrypted one, is followed down to its partition, which has to be in use.
# Exit status 77: it is not known on which one disk or partition the root file system is.
export LC_ALL=C
fail() { echo "$1"; exit 1; }

command -v findmnt >/dev/null || { echo "findmnt is not installed"; exit 77; }
# -v omits the name of a btrfs subvolume.
source=$(findmnt -n -v -o SOURCE /)
[ -b "$source" ] || { echo "the root file system is not on a disk, but on $source"; exit 77; }
name=$(basename "$(readlink -f "$source")")
device=/sys/class/block/$name
unknown() { echo "the root file system is on $source, $1"; exit 77; }
[ -r "$device/size" ] || unknown "whose position on the volume is unknown"

# Linux counts 512-byte sectors here, whatever the disk's own.
read -r root <"$device/size"
while [ -e "$device/dm" ]; do
    set -- "$device"/slaves/*
    [ "$#" -eq 1 ] && [ -r "$1/size" ] || unknown "which is made of several devices"
    device=/sys/class/block/$(basename "$1")
    read -r size <"$device/size"
    # Other logical volumes, such as one for swap, may be on the same partition.
    used=0
    for holder in "$device"/holders/*; do
        read -r part <"$holder/size"
        used=$((used + part))
    done
    [ "$((used * 100))" -ge "$((size * 85))" ] ||
        fail "$(((size - used) / 2048)) MiB of ${device##*/} belong to no logical volume"
done
below=${device##*/}
read -r size <"$device/size"
if [ -e "$device/partition" ]; then
    read -r start <"$device/start"
    read -r whole <"$(dirname "$(readlink -f "$device")")/size"
    left=$((whole - start - size))
    # 64 MiB are allowed for alignment, the second partition table and rounding.
    [ "$left" -le 131072 ] || fail "$((left / 2048)) MiB are unused behind the root partition $below"
fi
system=$(df -k / | tail -n 1 | { read -r _ blocks _; echo "$blocks"; })
# df does not count all of a file system's own tables.
[ "$((system * 2 * 100))" -ge "$((root * 85))" ] ||
    fail "the root file system has $((system / 1024)) MiB, but $name has $((root / 2048)) MiB"
echo "$((system / 1024)) MiB on $name, which has $((root / 2048)) MiB"
