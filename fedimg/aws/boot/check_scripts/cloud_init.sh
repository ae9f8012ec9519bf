# Run by sh, as root, on a test instance: cloud-init has finished, without an error. Waits for it.
# Exit status 77: the image has no cloud-init. What cloud-init itself recovered from is told, not
# held against the image.
command -v cloud-init >/dev/null || { echo "cloud-init is not installed"; exit 77; }
said=$(cloud-init status --wait --long 2>&1)
status=$?
# It prints dots while it waits.
said=$(printf '%s\n' "$said" | sed 's/^\.*//' | grep -v '^$')
printf '%s\n' "$said"
# 2: done, with errors that it recovered from (cloud-init 23.4 and later).
[ "$status" = 0 ] || [ "$status" = 2 ] || exit 1
printf '%s\n' "$said" | grep -q '^status: done$'
