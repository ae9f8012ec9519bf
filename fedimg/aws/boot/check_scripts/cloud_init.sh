# Run by sh, as root, on a test instance: wait until cloud-init is done, and check that it reports no
# error. Exit status 77: cloud-init is not installed. Errors that cloud-init recovered from are
# printed, and do not fail the check.
command -v cloud-init >/dev/null || { echo "cloud-init is not installed"; exit 77; }
output=$(cloud-init status --wait --long 2>&1)
status=$?
# It prints dots while it waits.
output=$(printf '%s\n' "$output" | sed 's/^\.*//' | grep -v '^$')
printf '%s\n' "$output"
# 2: done, with recovered errors (cloud-init 23.4 and later).
[ "$status" = 0 ] || [ "$status" = 2 ] || exit 1
printf '%s\n' "$output" | grep -q '^status: done$'
