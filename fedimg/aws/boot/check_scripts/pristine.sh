# Run by sh, as root, on a test instance: report what shipped.sh noted early in the boot, when the
# files were as shipped. Exit status 77: shipped.sh could not run, or did not see the image's files.
record=/run/fedimg-shipped

source=$(findmnt -n -v -o SOURCE / 2>/dev/null)
if [ ! -b "$source" ]; then
    echo "the root file system is not on a disk, so its files did not come with the image"
    exit 77
fi
if ! command -v cloud-init >/dev/null; then
    echo "cloud-init is not installed, so nothing could run before the first boot's changes"
    exit 77
fi
if [ "$(tail -n 1 "$record" 2>/dev/null)" != looked ]; then
    echo "cloud-init did not run the bootcmd of its user data, so the shipped files were not examined"
    exit 1
fi
found=$(sed '$d' "$record")
if [ -n "$found" ]; then
    printf 'the image was shipped with:\n%s\n' "$found"
    exit 1
fi
echo "the image was shipped without host keys, passwords, authorized keys and machine-id"
