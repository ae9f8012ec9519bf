#!/bin/sh
# Runs in a user and mount namespace of its own: builds what the instance sees as its root, then
# makes the instance's own namespaces below it, which see nothing else of this host. This outer one
# stays: what is mounted in it later (scripts/plug.sh) appears in the instance too.
#
# power_on.sh DIRECTORY HOSTNAME STEP...; standard input is the lifeline: at its end all is over.
set -e
directory=$1 name=$2
shift 2
root=$directory/root

mount -t tmpfs -o mode=0755 instance "$root"
for step in "$@"; do
    action=${step%%:*} rest=${step#*:}
    case $action in
        link) ln -s "${rest#*:}" "$root${rest%%:*}" ;;
        share) mkdir -p "$root$rest"; mount --rbind "$rest" "$root$rest" ;;
        lock) mount -o "remount,bind,ro${rest%%:*}" "$root${rest#*:}" ;;
        own) mkdir -p "$root/$rest"; mount --bind "$directory/disk/$rest" "$root/$rest" ;;
        cover) mount --bind "$directory/disk/usr/local/bin/${rest##*/}" "$root$rest" ;;
        device) : >"$root$rest"; mount --bind "$rest" "$root$rest" ;;
        folder) mkdir -p "$root$rest" ;;
    esac
done
mkdir "$root/.host"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$root/dev/pts"
mount --make-rshared "$root"

# The first process is a cat that waits for the end of the lifeline. With SIGCHLD ignored the kernel
# reaps what is left to it, and no signal from inside the instance reaches the first process.
# Not exec'd: this shell has to stay where it is, so that the outer namespaces stay.
unshare --mount --pid --uts --ipc --propagation slave --fork --kill-child -- /bin/sh -ec '
    read -r host_pid rest </proc/self/stat
    cd "$1"
    mount -t proc proc proc
    hostname "$2"
    pivot_root . .host
    umount -l /.host
    rmdir /.host
    echo "ready $host_pid"
    exec env -i --ignore-signal=CHLD cat >/dev/null
' sh "$root" "$name"
exit $?
