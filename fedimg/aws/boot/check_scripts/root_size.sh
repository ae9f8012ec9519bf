# Run by sh, as root, on a test instance whose root volume is larger than the image: check that the
# root partition reaches the end of the volume, and the file system the end of the partition.
# Exit status 77: the root file system is not on a plain disk or partition.
export LC_ALL=C
fail() { echo "$1"; exit 1; }

command -v findmnt >/dev/null || { echo "findmnt is not installed"; exit 77; }
# -v omits the name of a btrfs subvolume.
source=$(findmnt -n -v -o SOURCE /)
[ -b "$source" ] || { echo "the root file system is not on a disk, but on $source"; exit 77; }
name=$(basename "$(readlink -f "$source")")
device=/sys/class/block/$name
if [ ! -r "$device/size" ] || [ -e "$device/dm" ]; then
    echo "the root file system is on $source, whose position on the volume is unknown"
    exit 77
fi

# Linux counts 512-byte sectors here, whatever the disk's own.
read -r size <"$device/size"
if [ -e "$device/partition" ]; then
    read -r start <"$device/start"
    read -r whole <"$(dirname "$(readlink -f "$device")")/size"
    left=$((whole - start - size))
    # 64 MiB are allowed for alignment, the second partition table and rounding.
    [ "$left" -le 131072 ] || fail "$((left / 2048)) MiB are unused behind the root partition $name"
fi
system=$(df -k / | tail -n 1 | { read -r _ blocks _; echo "$blocks"; })
# df does not count all of a file system's own tables.
[ "$((system * 2 * 100))" -ge "$((size * 85))" ] ||
    fail "the root file system has $((system / 1024)) MiB, but $name has $((size / 2048)) MiB"
echo "$((system / 1024)) MiB on $name, which has $((size / 2048)) MiB"
