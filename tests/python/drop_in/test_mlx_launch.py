"""Ranks of mlx-lm with gqmm: its own ways to divide a model, and the commands of docs/guide/scale.md as they stand there."""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import mlx_lm
import numpy as np
import pytest
from mlx_lm_support import OURS, ROOT, assert_close, terms, tolerance_of
from rank_processes import Command, Ended, assert_all_succeeded, free_ports, openmpi, outputs_of_openmpi, run_ring, run_together

pytestmark = pytest.mark.mlx

GUIDE = (ROOT / "docs" / "guide" / "scale.md").read_text(encoding="utf-8")
RANKS = str(Path(__file__).with_name("ranks.py"))


def program_of_rank(way: str, folder: Path) -> list[str]:
    return ["-m", "gqmm.mlx", str(Path(__file__).with_name("sharded_ranks.py")), str(OURS), way, str(folder)]


def sharded(result: str, folder: Path, rank: int) -> dict[str, Any]:
    """What sharded_ranks.py says of a rank."""
    return {**json.loads(result), "logits": np.load(folder / f"rank{rank}.npy")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Any]:
    """What it says of one rank, which has the whole model."""
    folder = tmp_path_factory.mktemp("whole")
    command = [sys.executable, *program_of_rank("whole", folder)]
    (result,) = run_together(folder, [Command(command, {})])
    assert_all_succeeded([result])
    return sharded(result.output, folder, 0)


class TestModelsThatMlxLmDivides:
    def two(self, way: str, folder: Path) -> list[dict[str, Any]]:
        results = run_ring(folder, [program_of_rank(way, folder)] * 2)
        assert_all_succeeded(results)
        return [sharded(result.output, folder, rank) for rank, result in enumerate(results)]

    def assert_gqmm_computed_all(self, rank: dict[str, Any], whole: dict[str, Any]) -> None:
        """No product was MLX's, and the rank has less than the whole model."""
        assert {name: stock for name, (_, stock) in rank["calls"].items() if stock} == {}
        ran = {name for name, (ours, _) in whole["calls"].items() if ours}
        assert {name for name, (ours, _) in rank["calls"].items() if ours} == ran >= {"gather_qmm", "quantized_matmul"}
        assert rank["bytes"] < whole["bytes"]

    def test_a_pipeline_has_the_bits_of_one_rank(self, whole, tmp_path):
        for rank in self.two("pipeline", tmp_path):
            for result in ("prompt", "chunks", "tokens"):
                assert rank[result] == whole[result]
            self.assert_gqmm_computed_all(rank, whole)

    def test_tensor_parallel_ranks_agree_and_are_close_to_one(self, whole, tmp_path):
        first, second = self.two("tensor", tmp_path)
        for result in ("prompt", "chunks", "tokens"):
            assert first[result] == second[result]
        # The ranks add up other partial sums than one rank does, and each side rounds its own.
        model, _ = mlx_lm.load(str(OURS))
        assert_close(first["logits"], whole["logits"], tolerance_of(whole["logits"], terms(model)))
        assert not np.array_equal(first["logits"], whole["logits"]), "the guide says that bits differ"
        for rank in (first, second):
            self.assert_gqmm_computed_all(rank, whole)


def command_of_guide(*words: str, without: str = "no word") -> str:
    """The command of the guide that begins so and has the other words, in one line."""
    lines = re.sub(r" *\\\n +", " ", GUIDE)
    found = re.findall(rf"^    ({re.escape(words[0])} .+)$", lines, re.MULTILINE)
    (command,) = [each for each in found if without not in each and all(f" {word} " in each for word in words[1:])]
    return command


def in_shell(folder: Path, command: str, **environment: str) -> Ended:
    """Run a command in the root of the repository, with the Python that runs this test. It must succeed."""
    path = f"{environment.pop('PATH', '')}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {"PATH": path, "GQMM_NUM_THREADS": "1", **environment}
    results = run_together(folder, [Command(["bash", "-c", f"cd '{ROOT}' && {command}"], variables)])
    assert_all_succeeded(results)
    return results[0]


def with_status(command: str) -> str:
    return command.replace("-m gqmm.mlx ", "-m gqmm.mlx --status ")


def on_free_ports(command: str) -> str:
    return command.replace("mlx.launch ", f"mlx.launch --starting-port {free_ports(1)[0]} ")


def generated(output: str) -> str:
    """The text between the lines of mlx_lm generate, which must be there once."""
    _, text, _ = output.split("==========\n")
    assert len(text) > 60
    return text


@pytest.fixture(scope="module")
def text_of_one(tmp_path_factory) -> str:
    """The text of the guide's examples on one rank."""
    _, _, program = command_of_guide("mlx.launch", "generate").partition(" -m mlx_lm ")
    return generated(in_shell(tmp_path_factory.mktemp("one"), f"python -m gqmm.mlx -m mlx_lm {program}").output)


class TestCommandsOfTheGuide:
    def assert_divided(self, result: Ended, text: str) -> None:
        """Rank 0 has printed the text of one rank, and each has half of the experts."""
        assert generated(result.output) == text
        reports = re.findall(r"rank (\d) of 2 has ([\d.]+) of ([\d.]+) MB of experts in 3 layers", result.errors)
        assert sorted(rank for rank, _, _ in reports) == ["0", "1"]
        for _, part, whole in reports:
            assert float(part) == pytest.approx(float(whole) / 2, abs=0.1)

    def test_mlx_launch_divides_experts(self, text_of_one, tmp_path):
        command = on_free_ports(with_status(command_of_guide("mlx.launch", "--shard-experts")))
        self.assert_divided(in_shell(tmp_path, command), text_of_one)

    def test_mpirun_divides_experts(self, text_of_one, tmp_path):
        variables = openmpi()
        command = with_status(command_of_guide("mpirun.openmpi", "--shard-experts"))
        self.assert_divided(in_shell(tmp_path, command, **variables), text_of_one)

    def test_a_slurm_job_divides_experts(self, text_of_one, tmp_path):
        (script,) = re.findall(r"^```bash\n(#!/bin/bash\n#SBATCH.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
        (tmp_path / "job.sh").write_text(with_status(script).replace("=models/", f"={ROOT}/models/"))
        # What Slurm and the nodes do: srun runs a command as each task, and a node has more addresses than one.
        self.write_program(tmp_path / "hostname", 'test "$1" = -I && echo "127.0.0.1 192.0.2.1 "')
        self.write_program(
            tmp_path / "srun",
            """
            while [[ $1 == -* ]]; do shift; done
            for rank in 1 0; do SLURM_PROCID=$rank "$@" & tasks+=($!); done
            for task in "${tasks[@]}"; do wait "$task" || exit; done
            """,
        )
        job = {"SLURM_JOB_ID": str(free_ports(1)[0] % 10000), "SLURM_CPUS_PER_TASK": "2", "PATH": str(tmp_path)}
        result = in_shell(tmp_path, f"cd '{tmp_path}' && bash job.sh", **job)
        self.assert_divided(result, text_of_one)

    def write_program(self, file: Path, text: str) -> None:
        file.write_text(f"#!/bin/bash\n{textwrap.dedent(text)}\n")
        file.chmod(0o755)

    @pytest.mark.parametrize("way", ["tensor", "pipeline"])
    def test_mlx_lm_divides_models_itself(self, way, tmp_path):
        if way == "pipeline":
            command = command_of_guide("mlx.launch", "benchmark", "--pipeline")
        else:
            command = command_of_guide("mlx.launch", "benchmark", without="--pipeline")
        result = in_shell(tmp_path, on_free_ports(with_status(command)))
        assert result.output.count("Averages:") == 1
        calls = re.findall(r": (\d+) calls of gqmm's, (\d+) of MLX's", result.errors)
        assert {stock for _, stock in calls} == {"0"}
        assert result.errors.count("gather_qmm:") == 2

    def test_a_program_that_divides_models_itself_divides_experts_instead(self, tmp_path):
        _, _, program = command_of_guide("mlx.launch", "benchmark", "--pipeline").partition(" -m gqmm.mlx ")
        ours = ["-m", "gqmm.mlx", "--status", "--shard-experts", "round_robin", *program.split()]
        results = run_ring(tmp_path, [[each for each in ours if each != "--pipeline"]] * 2)
        assert_all_succeeded(results)
        assert ["Averages:" in result.output for result in results] == [True, False]
        for rank, result in enumerate(results):
            assert f"rank {rank} of 2 has" in result.errors
        for result in run_ring(tmp_path, [ours] * 2):
            assert result.status == 1
            assert "[shard_experts] the program asks for a pipeline as well; choose that or divided experts" in result.errors


def test_divided_experts_come_with_one_random_state_and_one_that_prints(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nimport mlx.core as mx\nprint('once')\nprint(mx.random.normal((3,)).tolist(), file=sys.stderr)\n"
    )
    first, second = run_ring(tmp_path, [["-m", "gqmm.mlx", "--shard-experts", "contiguous", str(program)]] * 2)
    assert_all_succeeded([first, second])
    assert (first.output, second.output) == ("once\n", "")
    assert first.errors == second.errors != ""


def test_ranks_over_openmpi_have_the_bits_of_one(one_rank, tmp_path):
    command = command_of_guide("mpirun.openmpi", "--shard-experts").partition(" python ")[0]
    command += f" --output-filename {tmp_path}/out python {RANKS} {OURS} contiguous"
    in_shell(tmp_path, command, **openmpi())
    outputs = outputs_of_openmpi(tmp_path / "out")
    assert len(outputs) == 2
    for rank, output in enumerate(outputs):
        result = json.loads(output)
        assert result.pop("report")[:2] == [rank, 2]
        assert result == one_rank(OURS)
