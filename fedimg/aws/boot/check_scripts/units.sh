# Run by sh, as root, on a test instance: wait until the boot is done, and check that no unit failed.
# The caller sets the timeout. Exit status 77: systemd is not running.
export LC_ALL=C SYSTEMD_COLORS=0

[ -d /run/systemd/system ] || { echo "systemd is not running"; exit 77; }
while :; do
    state=$(systemctl is-system-running 2>/dev/null)
    case $state in
        # Empty: systemd does not answer yet.
        initializing | starting | '') sleep 2 ;;
        *) break ;;
    esac
done
systemctl list-units --state=failed --plain --no-legend --no-pager --full | while read -r unit _; do
    echo "failed: $unit"
    systemctl status --lines=5 --no-pager --full "$unit" 2>&1 | tail -n 5
done
echo "system state: $state"
systemctl is-active --quiet multi-user.target || { echo "multi-user.target was not reached"; exit 1; }
[ "$state" = running ]
