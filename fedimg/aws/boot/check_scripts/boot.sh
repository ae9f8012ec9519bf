# Run by sh, as root, on a test instance: tell one boot from the next.
# Standard input is "mark", which stores the boot id in /run, or "ask", whose exit status is 0 in
# another boot than the marked one and 1 in the same. The mark is in /run, since machines that share
# a kernel have one boot id, and /run does not survive a reboot.
read -r wanted
read -r now </proc/sys/kernel/random/boot_id
if [ "$wanted" = mark ]; then
    echo "$now" >/run/fedimg-boot
else
    marked=
    [ ! -r /run/fedimg-boot ] || read -r marked </run/fedimg-boot
    [ "$marked" != "$now" ]
fi
