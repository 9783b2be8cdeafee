"""The load generator: a process of its own that sends orders at a fixed rate, or as fast as they are answered.

Open loop: request n is due at start + n / rate, whatever the answers do, and its latency counts from when it was due.
A request that finds no connection free waits for one with its clock running. A request that the generator itself sends
late is counted as late. Closed loop, for ceilings: each of N connections sends its next request when it has its answer.

One thread, one epoll, non-blocking sockets, prepared bytes, no object per request: about 15 us of CPU a request, most
of it the kernel's. asyncio's transports would add a third. select() on the epoll's own descriptor waits in
microseconds, which epoll_wait cannot.
"""

import contextlib
import errno
import gc
import math
import resource
import select
import socket
import ssl
import time
from array import array
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Final

from bench.load import wire
from bench.load.spec import NO_ANSWER, Board, Records, Spec
from bench.load.wire import NotUnderstood
from common.tls.client import trusting

RECEIVE_BYTES: Final = 262_144
TIMEOUT_S: Final = 10.0
SWEEP_EVERY_S: Final = 0.25
CONNECTED_S: Final = 0.05
"""An open loop begins with as many connections as it sends requests in this time."""
LATE_NS: Final = 5_000_000
# Above 1,000 requests a second the generator wakes up at intervals, since each wake-up takes 20 us of a core from the
# services. Latencies there are longer by one interval on average, never shorter.
TICK_S: Final = 0.001
TICK_FAST_S: Final = 0.0005
TICK_BELOW_NS: Final = 1_000_000
TICK_FAST_BELOW_NS: Final = 333_333

NS: Final = 1_000_000_000


@dataclass(slots=True, eq=False)
class Connection:
    """A socket and the number of the request that it carries; -1 when it is idle."""

    socket: socket.socket
    request: int = -1
    sent_ns: int = 0
    partial: bytes = b""


class Generator:
    """Runs one spec."""

    def __init__(self, spec: Spec, board: Board) -> None:
        self.spec = spec
        self.board = board
        bodies, host = wire.bodies(spec.population), f"{spec.host}:{spec.port}"
        tokens = Path(spec.tokens).read_bytes().split() if spec.tokens else []
        self.requests = wire.requests(bodies, host, spec.path, lines=spec.lines, keyed=spec.keyed, tokens=tokens)
        self.accepted = wire.ACCEPTED_LINE if spec.lines else wire.ACCEPTED
        self.tls = trusting(Path(spec.authority)) if spec.authority else None
        self.due_ns = array("q")
        self.done_ns = array("q")
        self.statuses = array("H")
        self.ids: list[tuple[int, str]] = []
        self.poll = select.epoll()
        self.connections: dict[int, Connection] = {}
        self.idle: deque[Connection] = deque()
        self.bytes_sent = self.bytes_received = self.peak = self.waited = self.late = 0
        self.outstanding = 0
        # Keys differ between runs, so that no run repeats the key of an earlier one.
        self.key_prefix = b"bench-%016x-" % time.time_ns()

    def run(self) -> Records:
        """Send and receive until every request is answered or timed out. Raises `NotUnderstood` and `OSError`."""
        spec = self.spec
        at_once = spec.connections if spec.mode == "closed" else min(spec.connections, int(spec.rate * CONNECTED_S))
        self.idle.extend(self.connect() for _ in range(at_once))
        gc.collect()
        gc.freeze()
        gc.disable()
        cpu_s = time.process_time()
        wall_ns = time.time_ns()
        start_ns = time.monotonic_ns()
        self.board.started_ns = wall_ns
        (self.run_open if spec.mode == "open" else self.run_closed)(start_ns)
        elapsed_ns = time.monotonic_ns() - start_ns
        return Records(
            cpu_s=time.process_time() - cpu_s,
            elapsed_s=elapsed_ns / NS,
            spec=spec,
            due_ns=array("q", (at_ns - start_ns for at_ns in self.due_ns)),
            done_ns=array("q", (at_ns - start_ns for at_ns in self.done_ns)),
            statuses=self.statuses,
            ids=self.ids,
            started_wall_ns=wall_ns,
            bytes_sent=self.bytes_sent,
            bytes_received=self.bytes_received,
            connections=self.peak,
            waited_for_connection=self.waited,
            late=self.late,
        )

    def connect(self) -> Connection:
        sock = socket.create_connection((self.spec.host, self.spec.port), timeout=TIMEOUT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.tls is not None:
            sock = self.tls.wrap_socket(sock, server_hostname=self.spec.host)
        sock.setblocking(False)
        connection = Connection(sock)
        self.connections[sock.fileno()] = connection
        self.poll.register(sock, select.EPOLLIN)
        self.peak = max(self.peak, len(self.connections))
        return connection

    def drop(self, connection: Connection) -> None:
        """Close a connection; the request it carried, if any, has failed."""
        fd = connection.socket.fileno()
        if connection.request >= 0:
            self.done_ns[connection.request] = time.monotonic_ns()
            self.statuses[connection.request] = NO_ANSWER
            self.outstanding -= 1
            self.board.failed += self.spec.orders_a_request
        else:
            with contextlib.suppress(ValueError):
                self.idle.remove(connection)
        del self.connections[fd]
        self.poll.unregister(fd)
        connection.socket.close()

    def send(self, connection: Connection, due_ns: int, now_ns: int) -> None:
        number = len(self.due_ns)
        before, after = self.requests[number % len(self.requests)]
        request = b"%b%b%d%b" % (before, self.key_prefix, number, after) if after else before
        self.due_ns.append(due_ns)
        self.done_ns.append(0)
        self.statuses.append(NO_ANSWER)
        connection.request = number
        connection.sent_ns = now_ns
        self.outstanding += 1
        self.bytes_sent += len(request)
        try:
            taken = connection.socket.send(request)
        except ssl.SSLWantWriteError:
            taken = 0
        except OSError as error:
            if error.errno not in (errno.ECONNRESET, errno.EPIPE):
                raise
            self.drop(connection)
            return
        if taken < len(request):
            connection.socket.settimeout(TIMEOUT_S)
            connection.socket.sendall(request[taken:])
            connection.socket.setblocking(False)

    def receive(self, connection: Connection) -> bool:
        """Read what has arrived. Returns whether the connection is free for another request."""
        try:
            arrived = connection.socket.recv(RECEIVE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            arrived = b""
        if not arrived:
            self.drop(connection)
            return False
        self.bytes_received += len(arrived)
        answer = connection.partial + arrived if connection.partial else arrived
        length = wire.length_of(answer)
        if not length or len(answer) < length:
            connection.partial = answer
            return False
        connection.partial = b""
        number = connection.request
        if number < 0:
            raise NotUnderstood(f"an answer without a request: {answer[:200]!r}")
        connection.request = -1
        self.outstanding -= 1
        self.done_ns[number] = time.monotonic_ns()
        status = self.statuses[number] = wire.status_of(answer)
        orders, board = self.spec.orders_a_request, self.board
        if status == self.spec.accepted:
            ids = self.accepted.findall(answer)
            self.ids.extend((number, order_id.decode()) for order_id in ids)
            board.accepted += len(ids)
            board.refused += orders - len(ids)  # a line that is refused says so in an answer of 200
        elif status == 503:
            board.refused += orders
        else:
            board.failed += orders
        return True

    def sweep(self, now_ns: int) -> None:
        """Drop the connections whose request has timed out."""
        oldest = now_ns - int(TIMEOUT_S * NS)
        for connection in list(self.connections.values()):
            if connection.request >= 0 and connection.sent_ns < oldest:
                self.drop(connection)

    def run_open(self, start_ns: int) -> None:
        spec, board, idle, connections = self.spec, self.board, self.idle, self.connections
        epoll_fd = self.poll.fileno()
        board.rate_milli = board.rate_milli or int(spec.rate * 1_000)
        due_ns = float(start_ns)
        end_ns = start_ns + int(spec.duration_s * NS)
        sweep_ns = start_ns
        blocked_ns = 0  # when all connections were last taken
        while True:
            now_ns = time.monotonic_ns()
            if (rate_milli := board.rate_milli) < 0:
                end_ns = start_ns
            interval_ns = 1e12 / abs(rate_milli)
            while due_ns <= now_ns and due_ns < end_ns:
                if not idle:
                    if len(connections) >= spec.connections:
                        blocked_ns = now_ns
                    self.collect()
                if idle:
                    connection = idle.popleft()
                elif len(connections) < spec.connections:
                    connection = self.connect()
                else:
                    break
                if due_ns <= blocked_ns:
                    self.waited += 1
                elif now_ns - due_ns > LATE_NS:
                    self.late += 1
                self.send(connection, int(due_ns), now_ns)
                due_ns += interval_ns
                now_ns = time.monotonic_ns()
            sending = due_ns < end_ns
            if not sending and not self.outstanding:
                return
            can_send = sending and (idle or len(connections) < spec.connections)
            wait_s = (due_ns - now_ns) / NS if can_send else SWEEP_EVERY_S
            if interval_ns < TICK_BELOW_NS:
                time.sleep(TICK_S if interval_ns > TICK_FAST_BELOW_NS else TICK_FAST_S)
            elif wait_s > 0:
                select.select([epoll_fd], [], [], min(wait_s, SWEEP_EVERY_S))
            self.collect()
            if now_ns > sweep_ns:
                sweep_ns = now_ns + int(SWEEP_EVERY_S * NS)
                self.sweep(now_ns)

    def collect(self, wait_s: float = 0) -> None:
        """Read all answers that have arrived. Also called before opening a connection, which takes longer."""
        for fd, _ in self.poll.poll(wait_s):
            connection = self.connections[fd]
            if self.receive(connection):
                self.idle.append(connection)

    def run_closed(self, start_ns: int) -> None:
        spec, idle, connections = self.spec, self.idle, self.connections
        requests_max = spec.requests_max or math.inf
        end_ns = start_ns + int(spec.duration_s * NS)
        sweep_ns = start_ns
        now_ns = start_ns
        while True:
            while idle and now_ns < end_ns and len(self.due_ns) < requests_max:
                self.send(idle.popleft(), now_ns, now_ns)
                now_ns = time.monotonic_ns()
            if not self.outstanding:
                return
            self.collect(SWEEP_EVERY_S)
            now_ns = time.monotonic_ns()
            if now_ns > sweep_ns:
                sweep_ns = now_ns + int(SWEEP_EVERY_S * NS)
                self.sweep(now_ns)
                while len(connections) < spec.connections and now_ns < end_ns:
                    idle.append(self.connect())


def generate(spec: Spec, board: Board, results: Pipe) -> None:
    """Run one load in this process. Sends its records, or the error at which it gave up."""
    # The limit on open files is 1,024 on many systems.
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))
    try:
        results.send(Generator(spec, board).run())
    except (NotUnderstood, OSError) as error:
        results.send(error)
