"""A thread that ends a rank which would wait for others without an end, with a sentence that names them.

MLX's backends wait for ever for a rank that stalls. So the ranks of shard_experts have connections of their own, each rank with
each. Once a second a rank says on them how many exchanges it has begun. An exchange that takes longer than the timeout ends the
process; what the others have said, or have not said, tells which rank is missing.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import selectors
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import mlx.core as mx
import numpy as np

from gqmm.mlx._load import extension

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MESSAGE = struct.Struct("<q?")
"""What a rank says: how many exchanges it has begun, and whether it is busy, so that others should be patient."""
_SECONDS_BETWEEN_MESSAGES = 1.0
_SECONDS_OF_SILENCE = 5.0
"""After which a rank counts as stalled."""
_SECONDS_AFTER_AN_END = 10.0
"""How long an exchange may take after a rank has ended: it may have ended because the program is over, and what it sent last may
still be on its way. Usually MLX's own error is there first."""
_SECONDS_BEFORE_AN_END = 1.0
"""How long a process with such an error waits to hear which rank has ended."""
_BYTES_OF_A_TOKEN = 16
_BYTES_OF_A_RANK = 4
_BYTES_OF_AN_ADDRESS = 256
_BYTES_OF_AN_ERROR = 512


class _Address(NamedTuple):
    """Where a rank listens, and what it wants to hear from those that connect."""

    host: str
    port: int
    token: str


def gather_bytes(group: mx.distributed.Group, message: bytes) -> list[bytes]:
    """Return the messages of all ranks, which have the same length."""
    gathered = mx.distributed.all_gather(mx.array(list(message), mx.uint8)[None], group=group)
    return [bytes(row) for row in np.array(gathered)]


def _own_address(rank: int) -> str:
    """Return the address under which other ranks reach this one.

    It is that of MLX's ring, or else that of this machine's name, or else that of its route to other machines.
    """
    hosts = os.environ.get("MLX_HOSTFILE")
    if hosts is not None and "MLX_RANK" in os.environ:
        address: str = json.loads(Path(hosts).read_text())[rank][0]
        return address.rpartition(":")[0]
    with contextlib.suppress(OSError):
        address = socket.gethostbyname(socket.gethostname())
        if not address.startswith("127."):  # Debian gives a machine's name such an address in /etc/hosts
            return address
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect(("192.0.2.1", 9))  # an address for documents (RFC 5737); nothing is sent to it
        return str(route.getsockname()[0])
    return "127.0.0.1"


@dataclass
class _Peer:
    """What is known of another rank."""

    rank: int
    connection: socket.socket
    heard: float = field(default_factory=time.monotonic)
    begun: int = 0
    is_busy: bool = False
    ended_at: float | None = None
    _rest: bytes = b""

    def receive(self) -> None:
        try:
            received = self.connection.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self.ended_at = time.monotonic()
            return
        self.heard = time.monotonic()
        self._rest += received
        while len(self._rest) >= _MESSAGE.size:
            self.begun, self.is_busy = _MESSAGE.unpack_from(self._rest)
            self._rest = self._rest[_MESSAGE.size :]

    def send(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # a rank that has ended is seen by what it sends
            self.connection.send(message)

    def why_missing(self, begun: int) -> str | None:
        """Return why this rank is not in the exchange of that number, or None if it is there or busy."""
        if self.ended_at is not None:
            return "has ended"
        if time.monotonic() - self.heard > _SECONDS_OF_SILENCE:
            return "does not answer"
        if self.begun < begun and not self.is_busy:
            return "has not come to the exchange"
        return None


def _say(rank: int, what: str) -> None:
    sys.stderr.write(f"[shard_experts] rank {rank} {what}\n")
    sys.stderr.flush()


def _end_process(rank: int, what: str) -> None:
    """End the process as it is: a thread that waits inside MLX cannot be woken."""
    _say(rank, what)
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(1)


@contextlib.contextmanager
def patience(group: mx.distributed.Group, timeout: float | None) -> Iterator[None]:
    """End the process if the code inside takes longer. It is for the time before the ranks watch each other."""
    if not isinstance(timeout, (int, float)) or not 0 < timeout < threading.TIMEOUT_MAX:
        yield
        return
    what = f"has waited {timeout:g} s for all other ranks to call shard_experts with the same model; look at what they print"
    timer = threading.Timer(timeout, _end_process, (group.rank(), what))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Watchdog:
    """Watches the exchanges of this process."""

    def __init__(self, rank: int, timeout: float, peers: Sequence[_Peer]) -> None:
        self.timeout = timeout
        self._is_busy = False
        self._rank = rank
        self._peers = peers
        if not peers:
            return
        self._selector = selectors.DefaultSelector()
        for peer in peers:
            peer.connection.setblocking(False)
            self._selector.register(peer.connection, selectors.EVENT_READ, peer)
        threading.Thread(target=self._run, name="gqmm watchdog", daemon=True).start()
        atexit.register(self._explain_end)

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Tell the others that this rank does something that may take long, so that they wait for it."""
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False

    def _run(self) -> None:
        spoken = -np.inf
        while True:
            if time.monotonic() - spoken >= _SECONDS_BETWEEN_MESSAGES:
                spoken = time.monotonic()
                self._speak()
            for key, _ in self._selector.select(_SECONDS_BETWEEN_MESSAGES / 4):
                key.data.receive()
                if key.data.ended_at is not None:
                    self._selector.unregister(key.fileobj)
            self._judge()

    def _speak(self) -> None:
        begun, _, _ = extension.exchanges()
        for peer in self._peers:
            peer.send(_MESSAGE.pack(begun, self._is_busy))

    def _judge(self) -> None:
        begun, ended, waited = extension.exchanges()
        if begun == ended:
            return
        if waited > min(self.timeout, _SECONDS_AFTER_AN_END) and any(peer.ended_at is not None for peer in self._peers):
            _end_process(self._rank, f"cannot go on with an exchange: {self._missing(begun)}")
        if waited > self.timeout:
            missing = self._missing(begun)
            if missing:
                _end_process(self._rank, f"has waited {waited:.0f} s for an exchange: {missing}")
            if not any(peer.is_busy for peer in self._peers):
                _end_process(
                    self._rank, f"has waited {waited:.0f} s for an exchange to which all ranks have come; look at the network"
                )

    def _missing(self, begun: int) -> str:
        reasons = {peer.rank: peer.why_missing(begun) for peer in self._peers}
        return ", ".join(f"rank {rank} {reason}" for rank, reason in sorted(reasons.items()) if reason is not None)

    def _explain_end(self) -> None:
        """Say which rank has ended first, if an error of MLX, which does not know it, ends this process."""
        if not isinstance(getattr(sys, "last_value", None), RuntimeError):
            return
        time.sleep(_SECONDS_BEFORE_AN_END)  # this process may have heard of the end by MLX's connection first
        ended = sorted((peer.ended_at, peer.rank) for peer in self._peers if peer.ended_at is not None)
        if ended:
            _say(self._rank, f"has an error, and rank {ended[0][1]} has ended")


class _Connecting:
    """A rank while it connects to the others. Each step is taken by all ranks, also by one that has an error."""

    def __init__(self, group: mx.distributed.Group, timeout: float) -> None:
        self._group = group
        self._timeout = timeout / 2  # so that ranks learn of each other's errors before `patience` ends them
        self._error = ""

    def peers(self) -> list[_Peer]:
        """Raises ValueError on all ranks if some cannot be connected."""
        with contextlib.ExitStack() as listening:
            token = secrets.token_bytes(_BYTES_OF_A_TOKEN)
            host, port, listener = "", 0, None
            try:
                host = _own_address(self._group.rank())
                listener = listening.enter_context(socket.create_server((host, 0), backlog=self._group.size()))
                port = listener.getsockname()[1]
            except (OSError, LookupError, ValueError) as why:
                self._error = f"it cannot listen on address {host!r} ({why})"
            own = json.dumps([host, port, token.hex()]).encode()
            addresses = [_Address(*json.loads(each)) for each in gather_bytes(self._group, own.ljust(_BYTES_OF_AN_ADDRESS))]
            peers: list[_Peer] = []
            if listener is not None and all(address.port for address in addresses):
                try:
                    peers = [*self._connections(addresses), *self._accepted(listener, token)]
                except OSError as why:
                    self._error = str(why)
            self._raise_errors()
            return peers

    def _connections(self, addresses: Sequence[_Address]) -> Iterator[_Peer]:
        """Connect to the ranks before this one."""
        rank = self._group.rank()
        for other, address in enumerate(addresses[:rank]):
            try:
                connection = socket.create_connection((address.host, address.port), self._timeout)
                connection.sendall(bytes.fromhex(address.token) + rank.to_bytes(_BYTES_OF_A_RANK, "little"))
            except OSError as why:
                raise ConnectionError(f"it cannot connect to rank {other} at {address.host}:{address.port} ({why})") from why
            yield _Peer(other, connection)

    def _accepted(self, listener: socket.socket, token: bytes) -> Iterator[_Peer]:
        """Take the connections of the ranks behind this one."""
        missing = set(range(self._group.rank() + 1, self._group.size()))
        end = time.monotonic() + self._timeout
        while missing:
            listener.settimeout(max(end - time.monotonic(), 1e-3))
            try:
                connection, _ = listener.accept()
                connection.settimeout(self._timeout)
                greeting = connection.recv(_BYTES_OF_A_TOKEN + _BYTES_OF_A_RANK, socket.MSG_WAITALL)
            except OSError as why:
                raise ConnectionError(f"ranks {sorted(missing)} have not connected to it ({why})") from why
            rank = int.from_bytes(greeting[_BYTES_OF_A_TOKEN:], "little")
            if greeting[:_BYTES_OF_A_TOKEN] != token or rank not in missing:  # another program of the network
                connection.close()
                continue
            missing.remove(rank)
            yield _Peer(rank, connection)

    def _raise_errors(self) -> None:
        own = self._error.encode()[:_BYTES_OF_AN_ERROR]
        errors = [each.rstrip().decode(errors="replace") for each in gather_bytes(self._group, own.ljust(_BYTES_OF_AN_ERROR))]
        reasons = "; ".join(f"rank {rank}: {error}" for rank, error in enumerate(errors) if error)
        if reasons:
            raise ValueError(
                f"[shard_experts] the ranks cannot watch each other: {reasons}; allow TCP connections between the machines, or "
                "pass timeout=None to do without"
            )


_watchdogs: dict[tuple[int, int], Watchdog] = {}
"""By rank and number of ranks, because models share it."""


def watchdog_of(group: mx.distributed.Group, timeout: float | None) -> Watchdog:
    """Return what watches the exchanges of a group. All ranks call this. It watches nothing without a timeout or other ranks.

    Raises:
        ValueError: some ranks cannot be connected. It is raised on all ranks.
    """
    if timeout is None or group.size() == 1:
        return Watchdog(group.rank(), np.inf, [])
    key = (group.rank(), group.size())
    if key not in _watchdogs:
        _watchdogs[key] = Watchdog(group.rank(), timeout, _Connecting(group, timeout).peers())
    _watchdogs[key].timeout = timeout
    return _watchdogs[key]
