# Run by sh, as root, from cloud-init's bootcmd on a test instance, before cloud-init creates users,
# keys and host keys: note secrets and identifiers that the image was shipped with, and that must
# differ between machines. It writes one finding a line to /run/fedimg-shipped, then "looked", and
# never the value of a secret.
umask 077
record=/run/fedimg-shipped

for key in /etc/ssh/ssh_host_*_key; do
    [ ! -s "$key" ] || echo "SSH host key $key"
done >"$record"

while IFS=: read -r user secret _; do
    case $secret in
        '') echo "empty password of user $user" ;;
        # Locked, or not the hash of any password.
        !* | \** | x) ;;
        *) echo "password of user $user" ;;
    esac
done </etc/shadow >>"$record"

while IFS=: read -r _ _ _ _ _ home _; do
    for file in "${home%/}/.ssh/authorized_keys" "${home%/}/.ssh/authorized_keys2"; do
        # A line other than blanks and comments.
        if [ -f "$file" ] && grep -qv -e '^[[:space:]]*$' -e '^[[:space:]]*#' "$file"; then
            echo "authorized key in $file"
        fi
    done
done </etc/passwd | sort -u >>"$record"

# systemd writes the machine-id of an image that has none, or an "uninitialized" one; a file that is
# older than the boot was shipped. 60 s allow for a clock that is set during the boot.
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
