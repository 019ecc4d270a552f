"""Divided experts on several hosts, which are network namespaces with addresses, interfaces and a limited rate of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hosts import hosts
from mlx_lm_support import OURS
from rank_processes import Command, assert_all_succeeded, openmpi, outputs_of_openmpi, ring_environments, run_together

pytestmark = pytest.mark.mlx

PROGRAM = [sys.executable, str(Path(__file__).with_name("network_ranks.py")), str(OURS)]
BITS_PER_SECOND = 2_000_000


@pytest.fixture(scope="module")
def one_host() -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLX_")}
    result = subprocess.run(PROGRAM, env=environment, capture_output=True, text=True, timeout=300, check=True)
    return json.loads(result.stdout)


def least_traffic(ranks: int, tokens: int, bytes_of_number: int) -> int:
    """How many bytes all ranks together send at least for tokens that are computed one by one.

    A layer's slot is a row of numbers that one rank computes. Each of the others needs it for the sum, and the sum is rounded in
    the order of the slots, so none can be added up on the way.
    """
    config = json.loads((OURS / "config.json").read_text())
    slots = tokens * config["num_hidden_layers"] * config["num_experts_per_tok"]
    return (ranks - 1) * slots * config["hidden_size"] * bytes_of_number


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_on_several_hosts_have_the_bits_of_one_and_their_slots_cross_the_network(ranks, one_host, tmp_path):
    with hosts(ranks, BITS_PER_SECOND) as network:
        environments = ring_environments(tmp_path, [f"{address}:5000" for address in network.addresses])
        commands = [Command(network.command(rank, PROGRAM), environment) for rank, environment in enumerate(environments)]
        results = run_together(tmp_path, commands)
        assert_all_succeeded(results)
        sent = [network.bytes_sent(host) for host in range(ranks)]
        # The first token is of the prompt.
        least = least_traffic(ranks, len(one_host["tokens"]) - 1, bytes_of_number=4)
        assert sum(sent) >= least
        for result in map(json.loads, (result.output for result in results)):
            assert {**result, "seconds": 0} == {**one_host, "seconds": 0}
            # One of the hosts sends at least its share, and all wait for that.
            assert result["seconds"] >= network.least_seconds(least / ranks)


def test_openmpi_on_several_hosts_has_the_bits_of_one(one_rank, tmp_path):
    environment = openmpi()
    with hosts(2) as network:
        options = ["--mca", "plm_rsh_agent", str(network.remote_shell()), "--host", ",".join(network.names)]
        options += ["--bind-to", "none", "--mca", "mpi_yield_when_idle", "1", "--output-filename", f"{tmp_path}/out"]
        program = [sys.executable, str(Path(__file__).with_name("ranks.py")), str(OURS), "contiguous"]
        command = network.command(0, ["mpirun.openmpi", "-n", "2", *options, *program])
        assert_all_succeeded(run_together(tmp_path, [Command(command, environment)]))
        sent = [network.bytes_sent(host) for host in range(2)]
    results = [json.loads(output) for output in outputs_of_openmpi(tmp_path / "out")]
    assert [result.pop("report")[0] for result in results] == [0, 1]
    assert results == [one_rank(OURS)] * 2
    assert sum(sent) >= least_traffic(2, len(results[0]["tokens"]) - 1, bytes_of_number=2)  # the model is in bfloat16
