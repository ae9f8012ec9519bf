#!/bin/sh
# Runs in a user, mount and network namespace of its own, where a virtual machine and QEMU's network
# have nobody but each other: what is asked there of the world ends at once. The host is reached
# through Unix sockets alone, in FOLDER: names and names-stream, where questions about names are
# answered, and ssh, made here, which leads to the machine's SSH port.
#   network.sh PARENT FOLDER RESOLVER SSH COMMAND...
# PARENT is the process that started this, RESOLVER the address of the resolver, SSH the one where
# QEMU forwards the machine's SSH port.
set -e
parent=$1 folder=$2 resolver=$3 ssh=$4
shift 4
PATH=$PATH:/usr/sbin:/sbin

ip link set lo up
ip address add "$resolver/32" dev lo
# QEMU passes the machine's questions on to the host's own resolver, as that file says.
echo "nameserver $resolver" >"$folder/resolv.conf"
mount --bind "$folder/resolv.conf" /etc/resolv.conf

# A relay ends with the machine. It says nothing on the console, and keeps it open: so whoever sees
# the console's end knows that nothing of the machine is left.
relays=
trap 'kill -KILL $relays' EXIT
relay() {
    setpriv --pdeathsig KILL -- socat "$@" 3>&1 </dev/null >/dev/null 2>&1 &
    relays="$relays $!"
}
relay "UDP4-RECVFROM:53,bind=$resolver,fork" "UNIX-CONNECT:$folder/names"
relay "TCP4-LISTEN:53,bind=$resolver,fork" "UNIX-CONNECT:$folder/names-stream"
relay "UNIX-LISTEN:$folder/ssh,fork,backlog=128" "TCP4:$ssh:22"
until [ -S "$folder/ssh" ]; do
    kill -0 "$!"
    sleep 0.05
done

# What follows ends with its parent, unless that has ended before.
read -r pid name state now rest <"/proc/$$/stat"
[ "$now" = "$parent" ]
exec setpriv --pdeathsig KILL -- "$@"
