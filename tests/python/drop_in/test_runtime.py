"""Evaluation: streams, threads, errors, memory."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest

drop_in = pytest.importorskip("gqmm.mlx")
mlx_oracle = pytest.importorskip("mlx_oracle")
mx = pytest.importorskip("mlx.core")
pytestmark = pytest.mark.mlx

E, N, K = 8, 512, 512  # with the rows below: work for several threads


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(7)
    weights = mx.quantize(mx.array(rng.standard_normal((E, N, K), np.float32)))
    x = mx.array(rng.standard_normal((64, 1, K), np.float32))
    rhs = mx.array(rng.integers(0, E, (64,)))
    expected = drop_in.gather_qmm(x, *weights, rhs_indices=rhs)
    mx.eval(weights, x, rhs, expected)
    return x, weights, rhs, expected


def test_two_threads_on_two_streams(problem):
    x, weights, rhs, expected = problem

    def evaluate(_):
        stream = mx.new_stream(mx.cpu)
        for _ in range(50):
            y = drop_in.gather_qmm(x, *weights, rhs_indices=rhs, stream=stream)
            small = drop_in.quantized_matmul(x[0], *(a[0] for a in weights), stream=stream)
            mx.eval(y, small)
            if not mx.array_equal(y, expected, stream=stream):
                return False
        return True

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert all(pool.map(evaluate, range(2)))


def test_streams_share_one_team_of_threads():
    """In a process of its own, whose threads can be counted: with ten streams there are not ten teams."""
    program = """
import os
import mlx.core as mx
import gqmm.mlx

weights = mx.quantize(mx.ones((8, 512, 512)))
x, rhs = mx.ones((64, 1, 512)), mx.zeros((64,), mx.uint32)
mx.eval(weights, x, rhs)
streams = [mx.new_stream(mx.cpu) for _ in range(10)]

def threads(function):
    for stream in streams:
        mx.eval(function(x, *weights, rhs_indices=rhs, stream=stream))
    return len(os.listdir("/proc/self/task"))

before = threads(mx.gather_qmm)
print(threads(gqmm.mlx.gather_qmm) - before)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "3"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert int(result.stdout) <= 3  # the thread that has the team, and at most two workers


def test_asynchronous_evaluation(problem):
    x, weights, rhs, expected = problem
    y = drop_in.gather_qmm(x, *weights, rhs_indices=rhs)
    z = y * 2
    mx.async_eval(z)
    assert mx.array_equal(z, expected * 2)


def test_results_feed_further_products(problem):
    """A chain within one evaluation, whose arrays have no memory when the graph is built."""
    x, weights, rhs, _ = problem
    y = x
    for _ in range(8):
        y = drop_in.gather_qmm(y, *weights, rhs_indices=rhs)
        y = y / mx.abs(y).max()
    step = x
    for _ in range(8):
        step = drop_in.gather_qmm(step, *weights, rhs_indices=rhs)
        step = step / mx.abs(step).max()
        mx.eval(step)
    assert mx.array_equal(y, step)


@pytest.mark.parametrize("rows", [1, 64], ids=["one thread", "several threads"])
def test_an_error_in_an_evaluation_reaches_its_caller_and_no_other(problem, rows):
    x, weights, rhs, expected = problem
    for _ in range(3):
        bad = drop_in.gather_qmm(x[:rows], *weights, rhs_indices=rhs[:rows] + E)
        with pytest.raises(RuntimeError, match="out of range: w has 8 matrices"):
            mx.eval(bad)
        assert mx.array_equal(drop_in.gather_qmm(x, *weights, rhs_indices=rhs), expected)


def test_a_result_that_failed_has_no_numbers(problem):
    """MLX may raise again when it is read, or take it for evaluated."""
    x, weights, rhs, _ = problem
    for rows in (1, 64):
        bad = drop_in.gather_qmm(x[:rows], *weights, rhs_indices=rhs[:rows] + E)
        with pytest.raises(RuntimeError, match="out of range"):
            mx.eval(bad)
        try:
            values = np.array(bad)
        except RuntimeError:
            continue
        assert np.isnan(values).all()


def test_a_forked_child_evaluates():
    program = """
import os
import mlx.core as mx
import gqmm.mlx

weights = mx.quantize(mx.ones((8, 512, 512)))
x, rhs = mx.ones((64, 1, 512)), mx.zeros((64,), mx.uint32)

def total():
    y = gqmm.mlx.gather_qmm(x, *weights, rhs_indices=rhs, stream=mx.new_stream(mx.cpu))
    mx.eval(y)
    return memoryview(y)[63, 0, 511]

parent = total()
child = os.fork()
if child == 0:
    os._exit(0 if total() == parent else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "0\n"


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("pack", [False, True])
def test_a_thousand_evaluations_leak_nothing(problem, pack):
    x, weights, rhs, _ = problem

    def evaluate(times):
        for _ in range(times):
            y = mx.gather_qmm(x, *weights, rhs_indices=rhs)
            g = mx.grad(lambda x: mx.quantized_matmul(x, *(a[0] for a in weights)).sum())(x[0])
            mx.eval(y, g)

    with drop_in.install(pack=pack):
        evaluate(100)
        gc.collect()
        mx.clear_cache()
        active, resident = mx.get_active_memory(), resident_bytes()
        evaluate(1000)
        gc.collect()
        mx.clear_cache()
        assert mx.get_active_memory() == active
        assert resident_bytes() - resident < 2_000_000  # 2 kB an evaluation would show; an output alone has 128 kB


class TestPacking:
    @pytest.fixture(autouse=True)
    def installed(self):
        with drop_in.install(pack=True) as installation:
            yield installation
        assert drop_in.status().packed_arrays == 0

    @staticmethod
    def weights(rows=N):
        weights = mx.quantize(mx.random.normal((E, rows, K)))
        mx.eval(weights)
        return weights

    def test_the_second_use_packs_and_changes_no_bit(self, problem):
        x, _, rhs, _ = problem
        weights = self.weights()
        first = mx.gather_qmm(x, *weights, rhs_indices=rhs)
        mx.eval(first)
        assert drop_in.status().packed_arrays == 0
        second = mx.gather_qmm(x, *weights, rhs_indices=rhs)
        mx.eval(second)
        status = drop_in.status()
        size = sum(a.nbytes for a in weights)
        assert status.packed_arrays == 1
        assert size <= status.packed_bytes <= 1.03 * size
        assert mx.array_equal(first, second)
        assert "1 of them held" in str(status)

    @pytest.mark.parametrize("mode", mlx_oracle.MODES)
    def test_every_mode(self, problem, mode):
        x, _, rhs, _ = problem
        weights = mx.quantize(mx.random.normal((E, 32, K)), mode=mode)
        mx.eval(weights)
        scale = {"global_scale": mx.array([2.0])} if mode == "nvfp4" else {}
        results = [mx.gather_qmm(x, *weights, rhs_indices=rhs, mode=mode, **scale) for _ in range(3)]
        assert all(mx.array_equal(results[0], y) for y in results)
        assert drop_in.status().packed_arrays == 1

    def test_a_copy_is_freed_with_its_array(self, problem):
        x, _, rhs, _ = problem
        weights = self.weights()
        for _ in range(2):
            mx.eval(mx.gather_qmm(x, *weights, rhs_indices=rhs))
        assert drop_in.status().packed_arrays == 1
        alive = weakref.ref(weights[0])
        del weights
        gc.collect()
        assert alive() is None
        assert drop_in.status().packed_arrays == 0
        assert drop_in.status().packed_bytes == 0
        assert drop_in.status().packed_so_far >= 1

    def test_a_changed_array_is_read_anew(self, problem):
        x, _, rhs, _ = problem
        w, scales, biases = self.weights()
        for _ in range(3):
            mx.eval(mx.gather_qmm(x, w, scales, biases, rhs_indices=rhs))
        for turn in range(4):  # the same Python object, with other contents each time
            w[turn % E] = w[(turn + 1) % E] + 1
            mx.eval(w)
            results = [mx.gather_qmm(x, w, scales, biases, rhs_indices=rhs) for _ in range(3)]
            fresh = mx.gather_qmm(x, mx.array(np.array(w)), scales, biases, rhs_indices=rhs)
            assert all(mx.array_equal(y, fresh) for y in results)
        other_scales = scales * 2
        mx.eval(other_scales)
        doubled = [mx.gather_qmm(x, w, other_scales, biases * 2, rhs_indices=rhs) for _ in range(3)]
        assert all(mx.array_equal(y, fresh * 2) for y in doubled)

    def test_what_changes_is_not_packed(self, problem):
        x, _, rhs, _ = problem
        w, scales, biases = self.weights()
        before = drop_in.status().packed_so_far
        for i in range(1, 6):
            changed = scales * i
            mx.eval(changed)
            mx.eval(mx.gather_qmm(x, w, changed, biases, rhs_indices=rhs))
            mx.eval(mx.grad(lambda s: mx.gather_qmm(x, w, s, biases, rhs_indices=rhs).sum())(changed))
        assert drop_in.status().packed_so_far == before

    def test_settings_are_told_apart(self, problem):
        """One w whose shape fits 4 bits in groups of 64 and 8 bits in groups of 32."""
        x, _, rhs, _ = problem
        w, scales, biases = self.weights()
        for bits, group in [(4, 64), (8, 32)] * 3:
            settings = {"bits": bits, "group_size": group}
            rows = x[..., : w.shape[-1] * 32 // bits]
            packed = mx.gather_qmm(rows, w, scales, biases, rhs_indices=rhs, **settings)
            copies = [mx.array(np.array(a)) for a in (w, scales, biases)]
            assert mx.array_equal(packed, drop_in.gather_qmm(rows, *copies, rhs_indices=rhs, **settings))

    def test_compiled_functions_pack(self, problem):
        x, _, rhs, _ = problem
        weights = self.weights()
        compiled = mx.compile(lambda x: mx.gather_qmm(x, *weights, rhs_indices=rhs))
        results = [compiled(x) for _ in range(3)]
        mx.eval(results)
        assert drop_in.status().packed_arrays == 1
        assert all(mx.array_equal(y, results[0]) for y in results)

    def test_a_mode_of_the_future_is_mlxs(self, problem):
        x, _, rhs, _ = problem
        with pytest.raises(ValueError, match="Invalid quantization mode 'int2'"):
            mx.gather_qmm(x, *self.weights(), rhs_indices=rhs, mode="int2")

    def test_a_limit_may_be_raised(self, problem):
        x, _, rhs, _ = problem
        weights = self.weights()
        for limit, packed in [(10, 0), (None, 1)]:
            with drop_in.install(pack=True, pack_limit=limit):
                for _ in range(3):
                    mx.eval(mx.gather_qmm(x, *weights, rhs_indices=rhs))
                assert drop_in.status().packed_arrays == packed

    def test_the_limit_holds(self, problem):
        x, _, rhs, _ = problem
        weights = [self.weights() for _ in range(3)]
        size = sum(a.nbytes for a in weights[0])
        with drop_in.install(pack=True, pack_limit=2 * size + size // 2):
            for _ in range(3):
                mx.eval([mx.gather_qmm(x, *w, rhs_indices=rhs) for w in weights])
            assert drop_in.status().packed_arrays == 2
        drop_in.uninstall()
        assert drop_in.status().packed_arrays == 0

    def test_compiled_functions_use_the_copy_of_their_own_weights(self, problem):
        x, _, rhs, _ = problem
        weights, others = self.weights(), self.weights()
        captured = mx.compile(lambda x: mx.gather_qmm(x, *weights, rhs_indices=rhs))
        passed = mx.compile(lambda x, w, s, b: mx.gather_qmm(x, w, s, b, rhs_indices=rhs))
        expected, expected_of_others = (
            drop_in.gather_qmm(mx.array(x), *map(mx.array, w), rhs_indices=rhs) for w in (weights, others)
        )
        for _ in range(3):
            mx.eval(mx.gather_qmm(x, *weights, rhs_indices=rhs))
            assert mx.array_equal(captured(x), expected)
            assert mx.array_equal(passed(x, *weights), expected)
            assert mx.array_equal(passed(x, *others), expected_of_others)
