"""Streams with a memory node: the bits of slices of outputs, the processors of a call's threads, and errors.

One machine seldom has two nodes. So one test puts a folder of its own in the place of the system's, in a process that has its own
view of the file system; the two nodes there share out the processors of this machine.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import gqmm
import numpy as np
import oracle
import pytest
from processes import PRELUDE, run_product


def test_memory_nodes_share_out_the_processors_of_this_thread():
    nodes = gqmm.memory_nodes()
    assert sorted(processor for node in nodes for processor in node.processors) == sorted(os.sched_getaffinity(0))
    assert [node.number for node in nodes] == sorted({node.number for node in nodes})


def test_memory_nodes_follow_the_affinity_mask():
    before = os.sched_getaffinity(0)
    one = min(before)
    nodes = []

    def ask() -> None:
        os.sched_setaffinity(0, {one})
        nodes.extend(gqmm.memory_nodes())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert [node.processors for node in nodes] == [(one,)]
    assert os.sched_getaffinity(0) == before


def test_nodes_that_are_none_are_errors_with_a_remedy():
    with pytest.raises(ValueError, match=r"^\[Stream\] node = -1 is negative; give the number of one of gqmm.memory_nodes\(\)"):
        gqmm.Stream(node=-1)
    with pytest.raises(TypeError):
        gqmm.Stream(node="0")
    numbers = [node.number for node in gqmm.memory_nodes()]
    x, w = np.ones((1, 64), np.float32), gqmm.quantize(np.ones((2, 64), np.float32))
    message = f"stream.node = {numbers[-1] + 1} is no memory node of which this thread may use a processor; give one of "
    message += f"{', '.join(map(str, numbers))}, or none for any"
    with pytest.raises(ValueError, match=f"^{re.escape('[quantized_matmul] ' + message)}$"):
        gqmm.quantized_matmul(x, *w, stream=gqmm.Stream(node=numbers[-1] + 1))
    with pytest.raises(ValueError, match=re.escape("[pack] " + message)):
        gqmm.pack(*w, stream=gqmm.Stream(node=numbers[-1] + 1))


@pytest.mark.parametrize("packed", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("setting", oracle.DEFAULTS, ids=str)
def test_slices_of_outputs_have_the_bits_of_the_whole(rng, setting, packed):
    weights = oracle.random_weights(rng, setting, (4,), 96, 256)
    x = rng.standard_normal((12, 1, 256)).astype(np.float32)
    indices = {"lhs_indices": np.arange(12)[:, None], "rhs_indices": rng.integers(0, 4, (12, 2))}
    whole = gqmm.gather_qmm(x, *weights.arrays(), **indices, **weights.arguments())
    nodes = gqmm.memory_nodes()
    for parts in (2, 3, 4, 8):
        streams = [gqmm.Stream(threads=2, node=nodes[part % len(nodes)].number) for part in range(parts)]
        ends = [96 * part // parts for part in range(parts + 1)]

        def product(part: int, ends: list[int] = ends, streams: list[gqmm.Stream] = streams) -> np.ndarray:
            arrays = [None if each is None else each[:, ends[part] : ends[part + 1]] for each in weights.arrays()]
            if packed:
                arrays = [gqmm.pack(*arrays, **setting.arguments(), stream=streams[part])]
                return gqmm.gather_qmm(x, *arrays, **indices, stream=streams[part])
            return gqmm.gather_qmm(x, *arrays, **indices, **weights.arguments(), stream=streams[part])

        with ThreadPoolExecutor(parts) as callers:
            assert oracle.same_bits(np.concatenate(list(callers.map(product, range(parts))), axis=-1), whole)


THREADS_NAMED = """
import pathlib

def threads_named(name):
    tasks = pathlib.Path("/proc/self/task").iterdir()
    return [int(task.name) for task in tasks if (task / "comm").read_text().strip() == name]
"""

# Each call wants one thread more than the one before. So it starts a thread of the node's team, if it has that team.
EVERY_OPERATOR = """
import inspect
from functools import partial
from gqmm import dispatch

node = gqmm.memory_nodes()[0].number
E, T, H = 32, 1024, 512
rng = np.random.default_rng(0)
x, h = (rng.standard_normal((T, H), dtype=np.float32) for _ in range(2))
rows, ids, router = x[:, None], rng.integers(0, E, (T, 2)), np.full((T, 2), 0.5, np.float32)
dense = rng.standard_normal((E, H, H), np.float32)
w, one = (gqmm.QuantizedWeights(*gqmm.quantize(each), group_size=64, bits=4) for each in (dense, dense[0]))
chosen, offsets = {"rhs_indices": np.arange(T) % E}, np.arange(1, E + 1) * (T // E)
heads = rng.standard_normal((1, 4, 256, 64), np.float32)
tokens = rng.standard_normal((1, T, 4, 64), np.float32)
slots = rng.standard_normal((T, 2, H), dtype=np.float32)
plan = dispatch.DispatchPlan(ids, dispatch.ExpertOwners.contiguous(E, 1), 0, 1, E)

CALLS = [
    partial(gqmm.moe_combine, slots, router),
    partial(dispatch.combine, plan, slots, router),
    partial(gqmm.pack, w),
    partial(gqmm.rms_norm, x, None, 1e-6),
    partial(gqmm.layer_norm, x, None, None, 1e-6),
    partial(gqmm.rope, x[None, None], H),
    partial(dispatch.pack_rows, plan, x),
    partial(dispatch.pack_results, slots, ids),
    partial(dispatch.unpack, plan, slots.reshape(-1, H)),
    partial(gqmm.softmax, x),
    partial(gqmm.activate, x, h, gqmm.SwiGLU()),
    partial(gqmm.gather_qmm, rows, w, **chosen),
    partial(gqmm.quantized_matmul, x, one),
    partial(gqmm.gather_mm, rows, dense, **chosen),
    partial(gqmm.grouped_qmm, x, w, offsets),
    partial(gqmm.grouped_mm, x, dense, offsets),
    partial(gqmm.gather_qmm_vjp, rows, rows, w, **chosen),
    partial(gqmm.quantized_matmul_vjp, x, x, one),
    partial(gqmm.gather_mm_vjp, rows, rows, dense, **chosen),
    partial(gqmm.grouped_qmm_vjp, x, x, w, offsets),
    partial(gqmm.grouped_mm_vjp, x, x, dense, offsets),
    partial(gqmm.moe_ffn, x, ids, router, w, w, w),
    partial(gqmm.moe_ffn_vjp, x, x, ids, router, w, w, w),
    partial(gqmm.depthwise_conv1d, dense, dense[0, :, :4, None]),
    partial(gqmm.gated_delta_update, tokens, tokens, tokens, tokens[..., 0], tokens[..., 0]),
    partial(gqmm.ssm_update, tokens, tokens[0, 0, :, 0], tokens, tokens, tokens[0, 0, :, 0], tokens[..., 0], tokens[0, 0, :, 0]),
    partial(gqmm.scaled_dot_product_attention, heads, heads, heads, scale=1.0),
    partial(gqmm.quantized_scaled_dot_product_attention, heads, *[gqmm.quantize(heads, bits=8)] * 2, scale=1.0),
]


def with_a_stream(module):
    functions = [getattr(module, name) for name in module.__all__ if inspect.isfunction(getattr(module, name))]
    return {function for function in functions if "stream" in inspect.signature(function).parameters}


alone = {gqmm.quantize, gqmm.dequantize}  # they run on the caller's thread
assert {call.func for call in CALLS} | alone == with_a_stream(gqmm) | with_a_stream(dispatch)
for workers, call in enumerate(CALLS, start=1):
    call(stream=gqmm.Stream(threads=workers + 1, node=node))
    end = time.monotonic() + 10  # a new thread gives itself its name
    while not threads_named(f"gqmm-n{node}-{workers}"):
        assert time.monotonic() < end, call.func
        time.sleep(0.001)
"""


def test_every_operator_runs_on_the_node_of_its_stream():
    result = run_product(THREADS_NAMED + EVERY_OPERATOR)
    assert result.returncode == 0, result.stderr


TWO_NODES = """
nodes = gqmm.memory_nodes()
everywhere = os.sched_getaffinity(0)
assert [node.number for node in nodes] == [0, 2], nodes
w = gqmm.quantize(np.ones((4, 2048, 1024), np.float32))
x = np.ones((512, 1, 1024), np.float32)
rhs = np.arange(512) % 4


class Caller(threading.Thread):
    # Calls on a node until it is told to stop.
    def __init__(self, node):
        super().__init__()
        self.node, self.stop, self.right, self.calls, self.after = node, False, True, 0, None

    def run(self):
        stream = gqmm.Stream(threads=2, node=self.node.number)
        while not self.stop:
            self.right &= bool((gqmm.gather_qmm(x, *w, rhs_indices=rhs, stream=stream) == 1024).all())
            self.calls += 1
        self.after = os.sched_getaffinity(0)

    def seen_on_the_node(self):
        return os.sched_getaffinity(self.native_id) == set(self.node.processors)


callers = [Caller(node) for node in nodes]
for caller in callers:
    caller.start()
end = time.monotonic() + 60
for caller in callers:
    while (not caller.seen_on_the_node() or caller.calls == 0) and time.monotonic() < end:
        time.sleep(0.001)
    assert time.monotonic() < end
for node in nodes:
    (worker,) = threads_named(f"gqmm-n{node.number}-1")
    assert os.sched_getaffinity(worker) == set(node.processors)
    child = os.fork()
    if child == 0:
        os._exit(0 if (gqmm.gather_qmm(x, *w, rhs_indices=rhs, stream=gqmm.Stream(2, node=node.number)) == 1024).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
for caller in callers:
    caller.stop = True
    caller.join()
    assert caller.right
    assert caller.after == everywhere

try:
    gqmm.gather_qmm(x, *w, rhs_indices=rhs + 4, stream=gqmm.Stream(node=2))
    raise SystemExit("there is no expert 4")
except ValueError:
    assert os.sched_getaffinity(0) == everywhere

os.sched_setaffinity(0, nodes[0].processors)
if nodes[0].processors != nodes[1].processors:
    assert [node.number for node in gqmm.memory_nodes()] == [0]
    try:
        gqmm.quantize(np.ones((1, 64), np.float32), stream=gqmm.Stream(node=2))
        raise SystemExit("node 2 has no processor for this thread")
    except ValueError as error:
        print(error)
"""


def test_calls_of_two_nodes_run_at_once_each_on_its_own(tmp_path):
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can give a process its own view of /sys")
    processors = sorted(os.sched_getaffinity(0))
    halves = processors[: max(1, len(processors) // 2)], processors[len(processors) // 2 :]
    files = {"online": "0-2", "node1/cpulist": ""}
    files |= {f"node{node}/cpulist": ",".join(map(str, half)) for node, half in zip((0, 2), halves, strict=True)}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "program.py").write_text(PRELUDE + THREADS_NAMED + TWO_NODES)
    system = pathlib.Path("/sys/devices/system/node")
    in_view = ["unshare", "--mount", "sh", "-c", f'mount --bind "$0" {system} && exec "$@"', str(tmp_path)]
    if not system.is_dir() or subprocess.run([*in_view, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this container may not mount a folder in the place of the system's")
    command = [*in_view, sys.executable, str(tmp_path / "program.py")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    if len(processors) > 1:
        assert result.stdout.startswith("[quantize] stream.node = 2 is no memory node")
        assert result.stdout.endswith("give one of 0, or none for any\n")
