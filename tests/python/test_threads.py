"""Threads change neither bits nor manners: the GIL is free while an operator runs, and calls do not disturb each other."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import gqmm
import numpy as np
import oracle
import pytest
from oracle import Setting


@pytest.mark.parametrize("setting", oracle.DEFAULTS, ids=str)
@pytest.mark.parametrize("dtype", oracle.FLOATS, ids=str)
def test_any_number_of_threads_gives_the_same_bits(rng, setting, dtype):
    weights = oracle.random_weights(rng, setting, (6,), 70, 256, dtype=dtype)
    x = rng.standard_normal((24, 3, 256)).astype(dtype)
    rhs = rng.integers(0, 6, 24)
    one, *others = (
        gqmm.gather_qmm(x, *weights.arrays(), rhs_indices=rhs, **weights.arguments(), stream=gqmm.Stream(threads=threads))
        for threads in (1, 2, 3, 7, 0)
    )
    assert all(oracle.same_bits(one, other) for other in others)


def test_python_threads_run_at_once_and_get_their_own_results(rng):
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (4,), 64, 256)
    inputs = [rng.standard_normal((4, 8, 256)).astype(np.float32) for _ in range(8)]
    expected = [gqmm.gather_qmm(x, *weights.arrays()) for x in inputs]
    start = threading.Barrier(4)

    def work(worker: int) -> bool:
        start.wait()
        return all(
            oracle.same_bits(gqmm.gather_qmm(x, *weights.arrays()), y)
            for _ in range(5)
            for x, y in zip(inputs[worker::4], expected[worker::4], strict=True)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_the_gil_is_free_while_an_operator_runs(rng):
    """Another thread makes progress between the start and the end of one call. It could not if the call kept the GIL."""
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (1,), 1024, 1024)
    x = rng.standard_normal((1, 256, 1024)).astype(np.float32)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(10)  # nobody is asked to hand the GIL over: who waits gets it from a call that frees it
    steps = 0
    done = threading.Event()

    def count() -> None:
        nonlocal steps
        while not done.is_set():
            steps += 1
            done.wait(1e-6)

    counter = threading.Thread(target=count)
    try:
        counter.start()
        progressed = 0
        for _ in range(5):
            before = steps
            gqmm.gather_qmm(x, *weights.arrays(), stream=gqmm.Stream(threads=1))
            progressed += steps > before
    finally:
        done.set()
        counter.join()
        sys.setswitchinterval(interval)
    assert progressed


def test_errors_leave_the_gil_held():
    def fail() -> None:
        with pytest.raises(ValueError, match="K = 100"):
            gqmm.quantize(np.ones((2, 100), np.float32))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fail(), range(64)))


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_available_threads_honour_the_environment_and_the_affinity():
    assert run("import gqmm; print(gqmm.available_threads())", OMP_NUM_THREADS="1").stdout.strip() == "1"
    one_core = "import os, gqmm; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(gqmm.available_threads())"
    assert run(one_core).stdout.strip() == "1"
    assert 1 <= gqmm.available_threads() <= len(os.sched_getaffinity(0))


def test_the_instruction_set_is_chosen_by_the_environment():
    sets = gqmm.instruction_sets()
    assert "scalar" in [s.name for s in sets]
    assert gqmm.active_instruction_set() in [s.name for s in sets if s.supported]
    program = "import gqmm; print(gqmm.active_instruction_set())"
    for candidate in sets:
        result = run(program, GQMM_ISA=candidate.name)
        if candidate.supported:
            assert result.stdout.strip() == candidate.name
        else:
            assert "ValueError" in result.stderr
            assert candidate.name in result.stderr
        assert candidate.description
    unknown = run(program, GQMM_ISA="sse9")
    assert unknown.returncode != 0
    assert "ValueError" in unknown.stderr
    assert "sse9" in unknown.stderr


def test_every_instruction_set_gives_the_same_bits():
    program = """
import hashlib, sys
import gqmm, numpy as np, oracle
rng = np.random.default_rng(3)
digest = hashlib.sha256()
for setting in oracle.SETTINGS:
    for transpose in (True, False):
        for dtype in oracle.FLOATS:
            N, K = (19, 128) if transpose else (128, 19)
            weights = oracle.random_weights(rng, setting, (2,), N, K, dtype=dtype, transpose=transpose)
            x = rng.standard_normal((3, 5, K)).astype(dtype)
            rhs = np.array([1, 0, 1])
            digest.update(gqmm.gather_qmm(x, *weights.arrays(), rhs_indices=rhs, **weights.arguments()).tobytes())
print(gqmm.active_instruction_set(), digest.hexdigest())
"""
    path = os.pathsep.join([os.path.dirname(os.path.abspath(__file__)), os.environ.get("PYTHONPATH", "")])
    digests = {}
    for candidate in gqmm.instruction_sets():
        if candidate.supported:
            result = run(program, GQMM_ISA=candidate.name, PYTHONPATH=path)
            assert result.returncode == 0, result.stderr
            name, digest = result.stdout.split()
            assert name == candidate.name
            digests[name] = digest
    assert len(set(digests.values())) == 1, digests
