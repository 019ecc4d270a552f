"""install(pack=True) packs no array whose memory another library has got: a write to it leaves no trace."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import textwrap

import numpy as np
import pytest

drop_in = pytest.importorskip("gqmm.mlx")
mx = pytest.importorskip("mlx.core")
pytestmark = pytest.mark.mlx

E, N, K = 4, 32, 64


def torch_of(a):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (./dev test all installs it)")
    return torch.from_dlpack(a)


def torch_of_buffer(a):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (./dev test all installs it)")
    return torch.frombuffer(a, dtype=torch.uint8)  # which gives the buffer back at once, and keeps its address


def bytes_of(view) -> np.ndarray:
    """All bytes of what has been lent, writable."""
    if type(view).__module__ == "torch":
        view = view.view(-1).numpy()
    return np.asarray(view).reshape(-1).view(np.uint8)


ALIASES = {
    "np.array": lambda a: np.array(a, copy=False),
    "np.asarray": np.asarray,
    "__array__": lambda a: a.__array__(),
    "memoryview": memoryview,
    "np.frombuffer": lambda a: np.frombuffer(memoryview(a).cast("B"), np.uint8),
    "ctypes": lambda a: (ctypes.c_uint8 * a.nbytes).from_buffer(memoryview(a).cast("B")),
    "torch.from_dlpack": torch_of,
    "torch.frombuffer": torch_of_buffer,
    "a slice of mx": lambda a: np.array(evaluated(a[1:]), copy=False),
    "a reshaped array of mx": lambda a: np.array(evaluated(a.reshape(-1)), copy=False),
    "a transposed array of mx": lambda a: np.array(evaluated(a.T), copy=False).T,
    "another array of mx": lambda a: np.array(mx.stop_gradient(a).__copy__(), copy=False),
}


def evaluated(a):
    mx.eval(a)
    return a


@pytest.fixture(autouse=True)
def installed():
    with drop_in.install(pack=True):
        yield
    gc.collect()
    assert drop_in.status().packed_arrays == 0
    assert drop_in.status().in_place_arrays == 0


@pytest.fixture
def x():
    return evaluated(mx.random.normal((E, 2, K)))


def fresh_weights():
    weights = mx.quantize(mx.random.normal((E, N, K)))
    mx.eval(weights)
    return list(weights)


def assert_reads_what_is_there(x, weights):
    copies = [mx.array(np.array(a)) for a in weights]
    expected = evaluated(drop_in.gather_qmm(x, *copies))
    for _ in range(3):
        assert mx.array_equal(evaluated(mx.gather_qmm(x, *weights)), expected)


def use(x, weights, times=3):
    for _ in range(times):
        mx.eval(mx.gather_qmm(x, *weights))


@pytest.mark.parametrize("which", [0, 1, 2], ids=["w", "scales", "biases"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("alias", ALIASES)
def test_a_write_through_an_alias_is_seen(x, alias, when, which):
    weights = fresh_weights()
    if when == "after":
        use(x, weights)
        assert drop_in.status().packed_arrays == 1
    view = ALIASES[alias](weights[which])
    assert drop_in.status().packed_arrays == 0
    use(x, weights)
    assert drop_in.status().packed_arrays == 0
    assert drop_in.status().in_place_arrays == 1
    assert "1 weights not packed, because another library has their memory" in str(drop_in.status())
    memory = bytes_of(view)
    for value in (1, 2):
        memory[: len(memory) // 2] = value
        assert_reads_what_is_there(x, weights)
    del view, memory
    assert_reads_what_is_there(x, weights)  # torch.frombuffer shows that an alias may outlive what is known of it


def test_a_view_of_the_array_that_weights_are_a_part_of_counts(x):
    whole = [evaluated(mx.stack([a, a])) for a in fresh_weights()]
    weights = [evaluated(a[1]) for a in whole]
    use(x, weights)
    assert drop_in.status().packed_arrays == 1
    view = np.array(whole[0], copy=False)
    view[1, 0] = 3
    assert_reads_what_is_there(x, weights)
    assert drop_in.status().packed_arrays == 0


@pytest.mark.parametrize("evaluate", [True, False])
def test_updates_in_place_are_seen(x, evaluate):
    def assign(a):
        a[0] = a[1]
        return a

    def add(a):
        a += 1
        return a

    def at(a):
        return a.at[0].add(1)

    weights = fresh_weights()
    use(x, weights)
    for change in (assign, add, assign, at):
        for i in range(3):
            weights[i] = change(weights[i])
            if evaluate:
                mx.eval(weights[i])
        assert_reads_what_is_there(x, weights)


def test_a_read_without_an_alias_is_not_told_apart(x):
    """np.array copies, and lets the buffer go, but so does torch.frombuffer, which keeps the memory."""
    weights = fresh_weights()
    np.array(weights[0])
    use(x, weights)
    assert drop_in.status().packed_arrays == 0


def test_lending_other_arrays_changes_nothing(x):
    weights = fresh_weights()
    others = [np.array(mx.gather_qmm(x, *weights)) for _ in range(2000)]
    assert len(others) == 2000
    assert drop_in.status().packed_arrays == 1


def test_a_graph_that_was_built_before_the_write_reads_what_is_there_then(x):
    weights = fresh_weights()
    use(x, weights)
    y = mx.gather_qmm(x, *weights)
    compiled = mx.compile(lambda x: mx.gather_qmm(x, *weights))
    mx.eval(compiled(x))
    view = np.array(weights[0], copy=False)
    view[...] = 5
    expected = drop_in.gather_qmm(x, *(mx.array(np.array(a)) for a in weights))
    assert mx.array_equal(y, expected)
    assert mx.array_equal(compiled(x), expected)


BEFORE = """
import mlx.core as mx
import numpy as np

def program():
    x = mx.random.normal((4, 2, 64))
    weights = list(mx.quantize(mx.random.normal((4, 32, 64))))
    mx.eval(x, weights)
    view = {alias}
    import gqmm.mlx
    gqmm.mlx.install(pack=True)
    for _ in range(3):
        mx.eval(mx.gather_qmm(x, *weights))
    packed = gqmm.mlx.status().packed_arrays
    if packed == 0:
        np.asarray(view)[...] = 7
        expected = gqmm.mlx.gather_qmm(x, *(mx.array(np.array(a)) for a in weights))
        assert mx.array_equal(mx.gather_qmm(x, *weights), expected)
    print(packed, gqmm.mlx.status().in_place_arrays)

program()
"""


@pytest.mark.parametrize(
    ("alias", "output"),
    [
        ("None", "1 0"),
        ("np.array(weights[0], copy=False)", "0 1"),
        ("memoryview(weights[0])", "0 1"),
        ("__import__('torch').from_dlpack(weights[0]).view(__import__('torch').int32)", "0 1"),
    ],
)
def test_what_was_lent_before_the_import_is_found(alias, output):
    if "torch" in alias:
        pytest.importorskip("torch", reason="PyTorch is not installed (./dev test all installs it)")
    program = BEFORE.format(alias=alias)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout == output + "\n"


def test_the_methods_that_are_watched_still_look_like_mlxs():
    a = mx.array([1.0, 2.0])
    assert mx.array.__dlpack__.__name__ == "__dlpack__"
    assert np.from_dlpack(a).tolist() == [1.0, 2.0]
    assert a.__array__(dtype=None, copy=None).tolist() == [1.0, 2.0]
    with pytest.raises(TypeError):
        a.__dlpack__(no_such_argument=1)


def test_arrays_of_freed_memory_are_forgotten():
    program = textwrap.dedent("""
        import mlx.core as mx, numpy as np, gqmm.mlx, os
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        def lend(times):
            for _ in range(times):
                np.array(mx.zeros((4,)))
        lend(10_000)
        before = resident()
        lend(50_000)
        print(resident() - before < 1_000_000)
    """)
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300).stdout == "True\n"
