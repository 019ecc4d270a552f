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
from processes import run


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


def test_set_num_threads_holds_until_it_is_taken_back():
    by_default = gqmm.get_num_threads()
    try:
        for threads in (1, 3, 4096, np.int64(2)):
            gqmm.set_num_threads(threads)
            assert gqmm.get_num_threads() == threads
        for wrong, error in ((-1, ValueError), (4097, ValueError), (2**40, ValueError), (1.0, TypeError), (None, TypeError)):
            with pytest.raises(error, match="set_num_threads"):
                gqmm.set_num_threads(wrong)
            assert gqmm.get_num_threads() == 2
    finally:
        gqmm.set_num_threads(0)
    assert gqmm.get_num_threads() == by_default == gqmm.available_threads()


def test_threadpoolctl_limits_gqmm():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = gqmm.get_num_threads()
    with threadpoolctl.threadpool_limits(1):
        assert gqmm.get_num_threads() == 1
    assert gqmm.get_num_threads() == before
    with threadpoolctl.threadpool_limits(3, user_api="gqmm"):
        assert gqmm.get_num_threads() == 3
    with threadpoolctl.threadpool_limits({"gqmm": 1}):
        assert gqmm.get_num_threads() == 1
    assert gqmm.get_num_threads() == before
    (info,) = (library for library in threadpoolctl.threadpool_info() if library["user_api"] == "gqmm")
    assert info["version"] == gqmm.__version__


def test_a_limit_of_threadpoolctl_that_ends_leaves_gqmm_to_the_machine():
    """Also if the machine grants another number by then."""
    pytest.importorskip("threadpoolctl")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two processors")
    program = """
import os
import gqmm, threadpoolctl
controller = threadpoolctl.ThreadpoolController()
for limit in (threadpoolctl.threadpool_limits(1), controller.limit(limits=1)):
    all = os.sched_getaffinity(0)
    with limit:
        os.sched_setaffinity(0, {min(all)})
        controller.info()
    print(gqmm.get_num_threads(), end=" ")
    os.sched_setaffinity(0, all)
    print(gqmm.get_num_threads() == gqmm.available_threads() == len(all))
"""
    result = run(program, GQMM_NUM_THREADS="4096")
    assert result.stdout == 2 * "1 True\n", result.stderr


def test_the_program_of_threadpoolctl_shows_gqmm():
    pytest.importorskip("threadpoolctl")
    shown = subprocess.run([sys.executable, "-m", "threadpoolctl", "-i", "gqmm"], capture_output=True, text=True, check=True)
    assert '"user_api": "gqmm"' in shown.stdout


@pytest.mark.parametrize("order", ["import gqmm, threadpoolctl", "import threadpoolctl, gqmm"])
def test_threadpoolctl_may_be_imported_before_or_after(order):
    pytest.importorskip("threadpoolctl")
    result = run(f"{order}\nwith threadpoolctl.threadpool_limits(1): print(gqmm.get_num_threads())")
    assert result.stdout == "1\n", result.stderr


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
    for former, name in {"avx512": "avx512vnni", "neon": "neon-dotprod", "i8mm": "neon-i8mm"}.items():
        result = run(program, GQMM_ISA=former)
        supported = name in [s.name for s in sets if s.supported]
        assert result.stdout.strip() == (name if supported else ""), result.stderr
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
