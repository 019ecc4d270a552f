"""The hosts that tests make of network namespaces: what tests with them rely on."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time

from hosts import Hosts, hosts


def on(network: Hosts, host: int, *command: str) -> str:
    result = subprocess.run(network.command(host, command), capture_output=True, text=True, timeout=60, check=True)
    return result.stdout.strip()


SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 5000), timeout=30) as to:
    to.sendall(bytes(int(sys.argv[2])))
    to.shutdown(socket.SHUT_WR)
    to.recv(1)
"""
RECEIVE = """
import socket, sys
with socket.create_server((sys.argv[1], 5000)) as server:
    print("ready", flush=True)
    source, _ = server.accept()
    received = 0
    while part := source.recv(1 << 16):
        received += len(part)
    print(received)
"""


def namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, timeout=60, check=True).stdout


def test_hosts_have_names_addresses_and_shared_memory_of_their_own():
    with hosts(2) as network:
        assert [on(network, host, "hostname") for host in range(2)] == network.names
        assert [on(network, host, "hostname", "-I").strip() for host in range(2)] == network.addresses
        assert on(network, 0, "getent", "hosts", network.names[1]).split()[0] == network.addresses[1]
        assert on(network, 0, "ls", "/dev/shm") == ""


def test_a_remote_shell_runs_commands_as_ssh_does():
    with hosts(2) as network:
        shell = str(network.remote_shell())
        for command in (
            ["-x", "-q", network.names[1], "hostname;", "echo", "$((1 + 1))"],
            [network.addresses[1], "hostname; echo 2"],
        ):
            result = subprocess.run([shell, *command], capture_output=True, text=True, timeout=60, check=True)
            assert result.stdout == f"{network.names[1]}\n2\n"
        unknown = subprocess.run([shell, "host9", "true"], capture_output=True, text=True, timeout=60, check=False)
        assert (unknown.returncode, unknown.stderr) == (255, "there is no host host9\n")


def test_what_is_sent_is_counted_and_takes_the_time_of_the_limit():
    size = 400_000
    with hosts(2, bits_per_second=4_000_000) as network:
        receiver = subprocess.Popen(
            network.command(0, ["python3", "-c", RECEIVE, network.addresses[0]]), stdout=subprocess.PIPE, text=True
        )
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        start = time.monotonic()
        on(network, 1, "python3", "-c", SEND, network.addresses[0], str(size))
        seconds = time.monotonic() - start
        assert receiver.communicate(timeout=60)[0] == f"{size}\n"
        assert network.bytes_sent(1) >= size
        assert network.bytes_sent(0) < size
        assert seconds >= network.least_seconds(size) > 0.7


def test_hosts_end_with_what_runs_on_them_also_after_a_failure():
    with contextlib.suppress(ZeroDivisionError), hosts(2) as network:
        prefix = network.command(0, [])[3].removesuffix(network.names[0])
        assert namespaces().count(prefix) == 3  # and the switch
        process = subprocess.Popen(network.command(0, ["sh", "-c", "echo ready && sleep 600"]), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        raise ZeroDivisionError
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert prefix not in namespaces()
