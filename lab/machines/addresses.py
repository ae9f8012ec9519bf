"""Gives each instance a loopback address of its own; what listens there is the machine's matter."""

import errno
import random
import socket

# A clash means that another lab or program holds the address; so many in a row mean something else.
_TRIES = 200


class NoAddress(Exception):
    """No free loopback address was found."""


def reserve(seed: str, port: int) -> tuple[str, socket.socket]:
    """Find a free address in 127.16.0.0 to 127.254.255.254, and bind a socket to `port` on it.

    Bound and not listening, the socket refuses connections and keeps every other lab on this
    host away from the address. `seed` makes the choice the same each time where nothing clashes.
    """
    chosen = random.Random(seed)
    refusal: OSError | None = None
    for _ in range(_TRIES):
        high, middle, low = chosen.randint(16, 254), chosen.randint(0, 255), chosen.randint(1, 254)
        address = f"127.{high}.{middle}.{low}"
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            holder.bind((address, port))
        except OSError as error:
            holder.close()
            refusal = error
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                continue
            break
        # Only after the bind: before it, this option would let two labs share the address. From
        # here on it keeps connections of the last boot from hindering the next one's listen.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setblocking(False)
        return address, holder
    raise NoAddress(
        f"no loopback address for {seed}: port {port} could not be bound on any of {_TRIES} "
        f"addresses in 127.0.0.0/8 ({refusal}); choose another ssh_port"
    )
