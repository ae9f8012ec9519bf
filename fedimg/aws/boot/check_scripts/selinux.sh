# Run by sh, as root, on a test instance: check that SELinux is in enforcing mode.
# Exit status 77: the image has no SELinux.
if [ ! -e /etc/selinux/config ] && [ ! -e /sys/fs/selinux/enforce ]; then
    echo "the image has no SELinux"
    exit 77
fi
enforces=0
[ ! -r /sys/fs/selinux/enforce ] || read -r enforces </sys/fs/selinux/enforce
if [ "$enforces" != 1 ]; then
    echo "SELinux is not in enforcing mode; /etc/selinux/config says $(grep '^SELINUX=' /etc/selinux/config)"
    exit 1
fi
echo "SELinux is in enforcing mode"
