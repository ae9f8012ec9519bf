# Run by sh, as root, on a test instance, before and after a reboot: which boot is this?
# Standard input has "mark", which remembers this boot in memory, or "ask", whose exit status is 0
# in another boot than that, and 1 in the same. Machines that share a kernel share its boot id, too,
# but none of them keeps its /run.
read -r wanted
read -r now </proc/sys/kernel/random/boot_id
if [ "$wanted" = mark ]; then
    echo "$now" >/run/fedimg-boot
else
    marked=
    [ ! -r /run/fedimg-boot ] || read -r marked </run/fedimg-boot
    [ "$marked" != "$now" ]
fi
