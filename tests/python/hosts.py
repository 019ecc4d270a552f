"""Hosts that are network namespaces of this machine: each has its own address, host name and shared memory.

They stand for machines in tests of what travels over a network. A bridge connects them, in a namespace of its own. The interface
of each counts what it sends. Only root can make them.

             switch: bridge
             /     |      \
         host0   host1   host2        10.77.0.1, 10.77.0.2, …, each behind its interface eth0
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest

_BURST = 16 * 1024  # bytes that a limited interface may send at once
_made = count()

# Programs on one machine go around the network if they can: they compare host names, then share memory.
_LOG_IN = 'hostname "$1" && mount -t tmpfs none /dev/shm && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'


def _run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if result.returncode:
        raise OSError(f"{' '.join(command)}: {result.stderr.strip()}")
    return result.stdout


class Hosts:
    """Some hosts, numbered from 0. `close` ends what runs on them, and removes them."""

    def __init__(self, number: int, bits_per_second: int | None = None):
        """Make the hosts. With `bits_per_second`, each sends no faster than that."""
        prefix = f"gqmm-{os.getpid()}-{next(_made)}"  # of this process alone, as tests may run side by side
        self._switch = f"{prefix}-switch"
        self.names = [f"host{host}" for host in range(number)]
        self.addresses = [f"10.77.0.{host + 1}" for host in range(number)]
        self._namespaces = [f"{prefix}-{name}" for name in self.names]
        self._bits_per_second = bits_per_second
        self._folder = Path(tempfile.mkdtemp(prefix="gqmm-hosts-"))
        self._names_file = self._folder / "hosts"
        pairs = zip(self.addresses, self.names, strict=True)
        self._names_file.write_text("127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for address, name in pairs))
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        _run("ip", "netns", "add", self._switch)
        _run("ip", "-n", self._switch, "link", "add", "bridge", "up", "type", "bridge")
        for name, address, namespace in zip(self.names, self.addresses, self._namespaces, strict=True):
            _run("ip", "netns", "add", namespace)
            peer = ("peer", "name", "eth0", "netns", namespace)
            _run("ip", "-n", self._switch, "link", "add", name, "type", "veth", *peer)
            _run("ip", "-n", self._switch, "link", "set", name, "master", "bridge", "up")
            _run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
            for interface in ("lo", "eth0"):
                _run("ip", "-n", namespace, "link", "set", interface, "up")
            if self._bits_per_second is not None:
                limit = ("rate", f"{self._bits_per_second}bit", "burst", f"{_BURST}", "latency", "1s")
                _run("tc", "-n", namespace, "qdisc", "add", "dev", "eth0", "root", "tbf", *limit)
        _run(*self.command(0, ["true"]))  # whether the other namespaces and mounts are allowed

    def command(self, host: int, command: Sequence[str]) -> list[str]:
        """Return the command that runs this command on a host. It has the variables and files of this process."""
        inside = ["unshare", "--uts", "--ipc", "--mount", "sh", "-c", _LOG_IN, "sh", self.names[host], str(self._names_file)]
        return ["ip", "netns", "exec", self._namespaces[host], *inside, *command]

    def remote_shell(self) -> Path:
        """Return a program that runs a command on a host as ssh does, `remote_shell [OPTION…] HOST COMMAND…`, for mpirun."""
        program = self._folder / "remote_shell"
        lines = ["#!/bin/bash", "while [[ $1 == -* ]]; do shift; done", "host=$1; shift", "case $host in"]
        for host, (name, address) in enumerate(zip(self.names, self.addresses, strict=True)):
            lines.append(f'{name}|{address}) exec {shlex.join(self.command(host, ["sh", "-c"]))} "$*" ;;')
        lines += ["esac", 'echo "there is no host $host" >&2', "exit 255"]
        program.write_text("\n".join(lines) + "\n")
        program.chmod(0o755)
        return program

    def bytes_sent(self, host: int) -> int:
        """The number of bytes that a host has sent so far, with the headers of Ethernet, IP and TCP."""
        (link,) = json.loads(_run("ip", "-n", self._namespaces[host], "-s", "-j", "link", "show", "eth0"))
        return int(link["stats64"]["tx"]["bytes"])

    def least_seconds(self, bytes_sent: float) -> float:
        """How long a host takes at least to send so many bytes under its limit."""
        assert self._bits_per_second is not None
        return max(0.0, bytes_sent - _BURST) * 8 / self._bits_per_second

    def close(self) -> None:
        """End the processes on the hosts, and remove all that was made."""
        for namespace in [*self._namespaces, self._switch]:
            with contextlib.suppress(OSError):  # if it has not been made
                for process in _run("ip", "netns", "pids", namespace).split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(process), signal.SIGKILL)
                _run("ip", "netns", "delete", namespace)
        shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def hosts(number: int, bits_per_second: int | None = None) -> Iterator[Hosts]:
    """Hosts for a test, which is skipped where they cannot be made. At its end they are removed."""
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    for program in ("ip", "tc", "unshare"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}; apt-get install iproute2 util-linux")
    try:
        made = Hosts(number, bits_per_second)
    except OSError as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    try:
        yield made
    finally:
        made.close()
