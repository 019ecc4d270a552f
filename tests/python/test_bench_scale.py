"""The benchmark of experts on several ranks: `gqmm bench scale`."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from bench_modules import load, load_scale
from rank_processes import without_ranks

# A layer that takes no time. Whether its figures are right is what is tested, not what comes of them.
TINY_LAYER = {"hidden": 128, "experts": 8, "top": 2, "width": 64, "tokens": "1,6", "ranks": "1,2", "repetitions": 2,
              "seconds": 0.01, "pool": 1}  # fmt: skip


HEADER_BYTES = 5 * 8  # that ExpertLayer sends to every other rank before rows


def has_mpi() -> bool:
    if importlib.util.find_spec("mpi4py") is None or importlib.util.find_spec("gqmm.mpi") is None:
        return False
    try:
        load_scale("installed").check_installed()
    except load_scale("installed").NotInstalledError:
        return False
    return True


needs_mpi = pytest.mark.skipif(not has_mpi(), reason="mpi4py and an MPI library are not installed (pip install mpi4py mpich)")


def run(*options: str) -> "subprocess.CompletedProcess[str]":
    program = shutil.which("gqmm", path=Path(sys.executable).parent) or shutil.which("gqmm")
    if program is None:
        pytest.skip("the gqmm program is not installed")
    layer = [text for name, value in TINY_LAYER.items() for text in (f"--{name}", str(value))]
    command = [program, "bench", "scale", *layer, *options]
    return subprocess.run(command, env=without_ranks(), check=False, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("scale")
    result = run("--python", sys.executable, "--results", str(folder))
    assert (result.returncode, result.stderr) == (0, "")
    assert "bytes per token" in result.stdout
    (path,) = folder.glob("scale-*.json")
    return json.loads(path.read_text())


def bytes_of_a_layer(tokens: int, ranks: int) -> float:
    """The mean bytes that ranks send to others, from the model of the traffic, with the headers of ExpertLayer."""
    scale, settings = load("scale_model"), TINY_LAYER
    rng = np.random.default_rng(tokens)  # as in bench/scale/layer.py
    owners = np.arange(settings["experts"]) * ranks // settings["experts"]
    sent = []
    for _ in range(load_scale("layer").ROUTINGS):
        rng.standard_normal((tokens, settings["hidden"]), np.float32)
        ids = np.argsort(rng.random((tokens, settings["experts"])), axis=1)[:, : settings["top"]]
        traffic = scale.count_traffic(ids, owners, np.arange(tokens) % ranks, ranks)
        there_and_back = traffic.row_bytes(settings["hidden"], settings["top"]) + traffic.result_bytes(settings["hidden"])
        sent.append(there_and_back.sum() - np.trace(there_and_back))
    return float(np.mean(sent)) + ranks * (ranks - 1) * HEADER_BYTES


@needs_mpi
class TestScale:
    def test_every_number_of_ranks_has_its_figures(self, figures: Any) -> None:
        cases = figures["cases"]
        assert [(case["tokens"], case["ranks"]) for case in cases] == [(1, 1), (1, 2), (6, 1), (6, 2)]
        for case in cases:
            assert case["seconds"]["median"] > case["exchange_seconds"]["median"] > 0
            assert 0 < case["exchange_share"]["median"] < 1
            assert case["turns"] == 2
            assert ("alone" in case) == (case["ranks"] == 1)
        for case in cases[::2]:
            assert case["speed_up"]["median"] == 1
            assert case["bytes_per_token"] == 0
            assert 0 < case["alone"]["seconds"]["median"] < case["seconds"]["median"]

    def test_bytes_per_token_are_those_of_the_model(self, figures: Any) -> None:
        for case in figures["cases"]:
            assert case["bytes_per_token"] == pytest.approx(bytes_of_a_layer(case["tokens"], case["ranks"]) / case["tokens"])

    def test_the_model_of_nodes_reads_the_figures(self, figures: Any) -> None:
        scale = load("scale_model")
        node = scale.node_from_measured(figures, scale.Node())
        assert node.dispatch_seconds > 0
        assert 0 < node.of_int8_dot < 1

    def test_an_engine_counts_what_it_sends_to_others(self) -> None:
        class Echo:
            rank, ranks = 1, 3

            def all_to_all(self, arrays: Any, send_counts: Any, recv_counts: Any) -> Any:
                return list(arrays)

        engine = load_scale("layer").CountingEngine(Echo())
        rows, ids = np.zeros((6, 100), np.uint8), np.zeros((6, 8), np.uint8)
        assert len(engine.all_to_all([rows, ids], np.array([3, 2, 1]), np.array([0, 6, 0]))) == 2
        assert engine.bytes == 4 * 108
        assert engine.seconds > 0

    def test_an_error_on_ranks_ends_the_program_with_the_reason(self) -> None:
        result = run("--python", sys.executable, "--hidden", str(2**40), "--ranks", "2")  # more than any memory
        assert result.returncode == 2
        assert "Unable to allocate" in result.stderr
        assert "has ended without an answer" in result.stderr

    def test_a_rank_that_fails_ends_all(self, capsys: pytest.CaptureFixture[str]) -> None:
        class World:
            statuses: ClassVar[list[int]] = []

            def Abort(self, status: int) -> None:  # noqa: N802  (mpi4py's name)
                self.statuses.append(status)

        with load_scale("main").ending_all_ranks(World()):
            raise RuntimeError("no memory")
        assert World.statuses == [1]
        assert "RuntimeError: no memory" in capsys.readouterr().err


class TestWhatIsMissing:
    def test_an_interpreter_without_mpi4py_is_an_error_with_the_remedy(self, tmp_path: Path) -> None:
        bare = tmp_path / "python"
        bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')  # -S: no site-packages
        bare.chmod(0o755)
        result = run("--python", str(bare))
        assert result.returncode == 2
        assert "lacks mpi4py" in result.stderr
        assert "-m pip install mpi4py mpich" in result.stderr

    @needs_mpi
    def test_a_missing_mpiexec_is_an_error_with_the_remedy(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        installed = load_scale("installed")
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(installed.NotInstalledError, match=r"no mpiexec beside .*pip install mpi4py mpich"):
            installed.check_installed()
