"""Ports of this machine: those that Linux gives to outgoing connections, and free ones for tests and the bench."""

import random
import socket
from pathlib import Path

from dev.settings.services import HOST

free_port_range = range(20_000, 32_000)
"""Below the ports of outgoing connections. Tests that run side by side share it out."""
_handed_out: set[int] = set()
"""Ports given out by this process: a server may not listen yet on what it was given."""


def outgoing_ports() -> range:
    """The ports from which Linux takes those of outgoing connections; none on other systems."""
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except OSError:
        return range(0)
    return range(int(first), int(last) + 1)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface on which nothing listens, in `free_port_range`; none is given out twice."""
    sockets: list[socket.socket] = []
    try:
        while len(sockets) < count:
            candidate = socket.socket()
            try:
                candidate.bind((HOST, random.choice([port for port in free_port_range if port not in _handed_out])))
            except OSError:
                candidate.close()
            else:
                sockets.append(candidate)
                _handed_out.add(candidate.getsockname()[1])
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()
