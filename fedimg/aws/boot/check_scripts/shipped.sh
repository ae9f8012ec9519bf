# Run by sh, as root, from cloud-init's bootcmd on a test instance: before cloud-init makes users,
# their keys and host keys, it notes what the image shipped of what no two machines may share. What
# is wrong, a line each, is in /run/fedimg-shipped, then "looked". Nothing is shown of any secret.
umask 077
record=/run/fedimg-shipped

for key in /etc/ssh/ssh_host_*_key; do
    [ ! -s "$key" ] || echo "SSH host key $key"
done >"$record"

while IFS=: read -r user secret _; do
    case $secret in
        '') echo "empty password of user $user" ;;
        # Locked, or what no password ever hashes to.
        !* | \** | x) ;;
        *) echo "password of user $user" ;;
    esac
done </etc/shadow >>"$record"

while IFS=: read -r _ _ _ _ _ home _; do
    for file in "${home%/}/.ssh/authorized_keys" "${home%/}/.ssh/authorized_keys2"; do
        # More than blanks and comments.
        if [ -f "$file" ] && grep -qv -e '^[[:space:]]*$' -e '^[[:space:]]*#' "$file"; then
            echo "authorized key in $file"
        fi
    done
done </etc/passwd | sort -u >>"$record"

# An empty machine-id, or an "uninitialized" one, was written by systemd since the boot; what is
# older was shipped. 60 s: clocks are set while a machine boots.
id=
[ ! -r /etc/machine-id ] || read -r id </etc/machine-id
booted=$(sed -n 's/^btime //p' /proc/stat)
case $id in
    '' | uninitialized) ;;
    *)
        written=$(stat -c %Y /etc/machine-id)
        [ "$written" -ge "$((booted - 60))" ] || echo "machine-id $id"
        ;;
esac >>"$record"
echo looked >>"$record"
