"""The gated delta rule through MLX: values, bits and transforms, and the functions of MLX and mlx-lm that install() replaces."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("mlx_lm")
pytest.importorskip("gqmm.mlx")

import gqmm
import gqmm.mlx as drop_in
import mlx.core as mx
from families import FAMILIES
from mlx_lm.models import gated_delta, qwen3_next
from mlx_lm_support import assert_same_derivatives, assert_trains_as_with_stock, evaluated, stock

pytestmark = pytest.mark.mlx

DTYPES = [mx.float32, mx.float16, mx.bfloat16]
UNIT = {mx.float32: 2.0**-24, mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}
B, T, HK, HV, DK, DV = 3, 13, 2, 4, 40, 24
# Keys have length 1, so an error never grows. A token adds some tens of roundings of a row of the state, of length 6 here.
ERROR = 40 * 2.0**-24 * 6 * T
HAS_MLXS = hasattr(mx.fast, "gated_delta_update")


def counts():
    calls = drop_in.status().calls["gated_delta_update"]
    return calls.ours, calls.stock


def operands(dtype=mx.float32, vector=False):
    """q, k, v, g, beta, state and mask. The mask leaves out padding on the left, of none, one and several tokens."""
    keys = iter(mx.random.split(mx.random.key(4), 6))
    q, k = (mx.random.normal((B, T, HK, DK), key=next(keys)) for _ in range(2))
    q, k = (a / mx.linalg.norm(a, axis=-1, keepdims=True) for a in (q, k))
    v = mx.random.normal((B, T, HV, DV), key=next(keys))
    g = mx.random.uniform(0.5, 1, (B, T, HV, DK) if vector else (B, T, HV), key=next(keys))
    beta = mx.random.uniform(0, 1, (B, T, HV), key=next(keys))
    state = mx.random.normal((B, HV, DV, DK), key=next(keys))
    mask = mx.arange(T) >= mx.array([0, 5, 1])[:, None]
    return [*(a.astype(dtype) for a in (q, k, v)), g, beta, state, mask]


def assert_equal(results, expected):
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(evaluated(result), evaluated(wanted))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vector", [False, True], ids=["a factor for each head", "a factor for each element"])
@pytest.mark.parametrize("given", ["nothing", "state", "mask", "state and mask"])
def test_values(dtype, vector, given):
    *arrays, state, mask = operands(dtype, vector)
    state, mask = (a if name in given else None for name, a in (("state", state), ("mask", mask)))
    before = counts()
    y, after = drop_in.gated_delta_update(*arrays, state, mask)
    assert counts() == (before[0] + 1, before[1])
    assert (y.shape, y.dtype, after.shape, after.dtype) == ((B, T, HV, DV), dtype, (B, HV, DV, DK), mx.float32)
    assert_equal((y, after), gqmm.gated_delta_update(*arrays, state, mask))
    stock_y, stock_after = gated_delta.gated_delta_ops(*arrays, state, mask)
    assert (y.dtype, after.dtype) == (stock_y.dtype, stock_after.dtype)
    np.testing.assert_allclose(evaluated(after), evaluated(stock_after), rtol=0, atol=2 * ERROR)
    # mlx-lm's loop does not set y of padding to zero, as MLX's functions do.
    expected = stock_y if mask is None else mx.where(mask[..., None, None], stock_y, 0)
    np.testing.assert_allclose(evaluated(y), evaluated(expected), rtol=2 * UNIT[dtype], atol=2 * ERROR)


def test_bits_do_not_depend_on_chunks_batch_or_padding():
    *tokens, state, mask = operands(mx.bfloat16)
    y, after = drop_in.gated_delta_update(*tokens, state, mask)
    for chunk in (1, 5):
        parts, now = [], state
        for first in range(0, T, chunk):
            piece = [a[:, first : first + chunk] for a in (*tokens, mask)]
            part, now = drop_in.gated_delta_update(*piece[:5], now, piece[5])
            parts.append(part)
        assert_equal((mx.concatenate(parts, 1), now), (y, after))
    for i, padding in enumerate([0, 5, 1]):
        alone = [a[i : i + 1, padding:] for a in tokens]
        assert_equal(drop_in.gated_delta_update(*alone, state[i : i + 1]), (y[i : i + 1, padding:], after[i : i + 1]))


def test_bits_do_not_depend_on_threads():
    """The work is large enough to be divided."""
    q, k, v = (mx.random.normal((1, 40, 8, 128), key=mx.random.key(i)) / 128**0.5 for i in range(3))
    g, beta = (mx.random.uniform(0, 1, (1, 40, 8), key=mx.random.key(i)) for i in range(2))
    expected = None
    try:
        for count in (1, 2, 7):
            gqmm.set_num_threads(count)
            results = drop_in.gated_delta_update(q, k, v, g, beta)
            mx.eval(results)
            expected = expected or results
            assert_equal(results, expected)
    finally:
        gqmm.set_num_threads(0)


def test_a_state_that_nothing_else_holds_gives_its_memory():
    """The new state takes its place, also in a chain of calls. A state that someone holds keeps its values."""
    *tokens, state, _ = operands()
    held = evaluated(state)
    expected = [gqmm.gated_delta_update(*(a[:, :1] for a in tokens), state)]
    for t in range(1, T):
        expected.append(gqmm.gated_delta_update(*(a[:, t : t + 1] for a in tokens), expected[-1][1]))
    mx.eval(state)
    now, rows = state, []
    for t in range(T):  # one graph
        y, now = drop_in.gated_delta_update(*(a[:, t : t + 1] for a in tokens), now)
        rows.append(y)
    assert_equal([*rows, now], [*(y for y, _ in expected), expected[-1][1]])
    np.testing.assert_array_equal(evaluated(state), held)


def test_tokens_in_turn_need_memory_for_one_state():
    state = mx.zeros((1, HV, 512, 512))
    token = [mx.zeros((1, 1, heads, 512)) for heads in (HK, HK, HV)] + [mx.ones((1, 1, HV))] * 2
    mx.eval(state, token)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    for _ in range(3):
        y, state = drop_in.gated_delta_update(*token, state)
        mx.eval(y, state)
    assert mx.get_peak_memory() - before < state.nbytes / 2


def functions():
    """Ours and the loop of mlx-lm, of float arrays alone, with operands."""
    *arrays, state, mask = operands()
    vector = operands(vector=True)[3]

    def of_mlx_lm(*arrays):
        y, after = gated_delta.gated_delta_ops(*arrays, mask)
        return mx.where(mask[..., None, None], y, 0), after

    return {
        "all": (lambda *a: drop_in.gated_delta_update(*a, mask), of_mlx_lm, [*arrays, state]),
        "without a state": (drop_in.gated_delta_update, gated_delta.gated_delta_ops, arrays),
        "a factor for each element": (
            drop_in.gated_delta_update,
            gated_delta.gated_delta_ops,
            [*arrays[:3], vector, arrays[4], state],
        ),
    }


@pytest.mark.parametrize("name", ["all", "without a state", "a factor for each element"])
def test_transforms(name):
    ours, theirs, arrays = functions()[name]
    assert_same_derivatives(ours, theirs, arrays)
    expected = ours(*arrays)
    assert_equal(mx.compile(ours)(*arrays), expected)
    batched = [mx.stack([a, 0.5 * a], axis=1) for a in arrays]
    together = mx.vmap(ours, in_axes=1, out_axes=1)(*batched)
    for i in range(2):
        assert_equal([a[:, i] for a in together], ours(*(a[:, i] for a in batched)))
    alone = mx.vmap(lambda v: ours(*arrays[:2], v, *arrays[3:]))(batched[2].swapaxes(0, 1))
    assert_equal([a[0] for a in alone], expected)
    assert [a.shape for a in mx.vmap(ours)(*(mx.zeros((0, *a.shape)) for a in arrays))] == [(0, *a.shape) for a in expected]


def test_gradients_of_padding_that_is_not_finite_are_zero():
    *arrays, state, mask = operands()
    dirty = [mx.where(mask.reshape(B, T, *[1] * (a.ndim - 2)), a, mx.nan) for a in arrays]

    def loss(*arrays):
        y, after = drop_in.gated_delta_update(*arrays, state, mask)
        return (y**2).sum() + (after**2).sum()

    argnums = tuple(range(5))
    assert_equal([loss(*dirty)], [loss(*arrays)])
    for a, clean in zip(mx.grad(loss, argnums)(*dirty), mx.grad(loss, argnums)(*arrays), strict=True):
        np.testing.assert_array_equal(evaluated(a), evaluated(clean))
        assert (evaluated(a)[~np.array(mask)] == 0).all()


def test_a_layer_of_qwen3_next_trains_as_with_stock():
    config = FAMILIES["qwen3_next"].full_config()
    layer = qwen3_next.Qwen3NextGatedDeltaNet(qwen3_next.ModelArgs.from_dict(config))
    x = mx.random.normal((2, T, config["hidden_size"]), key=mx.random.key(1))
    names = assert_trains_as_with_stock(layer, x, "gated_delta_update")
    assert names >= {"A_log", "dt_bias", "conv1d.weight", "in_proj_qkvz.weight"}


def layer_arguments(dtype=mx.float32, vector=False):
    """The arguments of mlx-lm's gated_delta_update, with the shapes of qwen3_next or of kimi_linear."""
    q, k, v, _, b, state, mask = operands(dtype, vector)
    keys = mx.random.split(mx.random.key(8), 2)
    a = mx.random.normal((B, T, HV, DK) if vector else (B, T, HV), key=keys[0]).astype(dtype)
    A_log = mx.random.uniform(-2, 2, (HV, 1) if vector else (HV,), key=keys[1])
    dt_bias = mx.ones((HV, DK) if vector else (HV,))
    return [q, k, v, a, (4 * b - 2).astype(dtype), A_log, dt_bias, state, mask]


@pytest.mark.parametrize("vector", [False, True], ids=["as qwen3_next", "as kimi_linear"])
@pytest.mark.parametrize("options", [{}, {"use_kernel": False}, {"lower_bound": -5.0}, {"allow_neg_eigval": True}], ids=str)
def test_the_function_of_models_is_replaced_and_restored(vector, options):
    arguments = layer_arguments(vector=vector)
    with stock():
        expected = gated_delta.gated_delta_update(*arguments, **options)
        mx.eval(expected)
    before = counts()
    with drop_in.install(only=["gated_delta_update"]):
        assert drop_in.status().operators == ("gated_delta_update",)
        y, after = qwen3_next.gated_delta_update(*arguments, **options)
        assert counts() == (before[0] + 1, before[1])
    assert (y.dtype, after.dtype) == (expected[0].dtype, expected[1].dtype)
    counted = np.array(arguments[-1])
    np.testing.assert_allclose(evaluated(after), evaluated(expected[1]), rtol=0, atol=2 * ERROR)
    np.testing.assert_allclose(evaluated(y)[counted], evaluated(expected[0])[counted], rtol=0, atol=2 * ERROR)
    with stock():
        qwen3_next.gated_delta_update(*arguments, **options)


@pytest.mark.skipif(not HAS_MLXS, reason="this MLX has no mx.fast.gated_delta_update")
@pytest.mark.parametrize("vector", [False, True], ids=["a factor for each head", "a factor for each element"])
def test_the_function_of_mlx_is_replaced_and_restored(vector):
    *arrays, state, mask = operands(mx.bfloat16, vector)
    stock_function = mx.fast.gated_delta_update
    theirs = mx.fast.gated_delta_update(*arrays, initial_state=state, mask=mask)
    # In half types MLX rounds the gates as well.
    exact = mx.fast.gated_delta_update(*(a.astype(mx.float32) for a in arrays), initial_state=state, mask=mask)
    before = counts()
    with drop_in.install(only=["gated_delta_update"]):
        assert mx.fast.gated_delta_update is not stock_function
        results = mx.fast.gated_delta_update(*arrays, initial_state=state, mask=mask)
        assert counts() == (before[0] + 1, before[1])
    assert mx.fast.gated_delta_update is stock_function
    assert type(results) is type(theirs)
    for result, stocks, wanted in zip(results, theirs, exact, strict=True):
        assert (result.dtype, result.shape) == (stocks.dtype, stocks.shape)
        np.testing.assert_allclose(evaluated(result), evaluated(wanted), rtol=UNIT[result.dtype], atol=2 * ERROR)


def test_what_gqmm_does_not_serve_is_stocks():
    q, k, v, g, beta, state, mask = operands()
    calls = [
        lambda: gated_delta.gated_delta_ops(q, k, v, g, beta, state.astype(mx.bfloat16)),
        lambda: gated_delta.gated_delta_ops(q, k, v, g[:1], beta, state),  # broadcasts
        lambda: gated_delta.gated_delta_ops(q, k, v.astype(mx.float16), g, beta, state),
        lambda: gated_delta.gated_delta_ops(q, k, v, g, beta, state, mask.astype(mx.int32)),
    ]
    if HAS_MLXS:
        calls.append(lambda: mx.fast.gated_delta_update(q, k, v, g, beta, state.astype(mx.float16)))
    with stock():
        expected = [[evaluated(a) for a in call()] for call in calls]
    before = counts()
    with drop_in.install(only=["gated_delta_update"]):
        for call, results in zip(calls, expected, strict=True):
            for result, wanted in zip(call(), results, strict=True):
                np.testing.assert_array_equal(evaluated(result), wanted)
        assert counts() == (before[0], before[1] + len(calls))
        if HAS_MLXS:
            with pytest.raises(ValueError, match="broadcast"):  # MLX's own error
                mx.fast.gated_delta_update(q, k, v, g[:, :, :3], beta)
    with pytest.raises(ValueError, match=r"\[gated_delta_update\] v has 3 heads but q and k have 2"):
        drop_in.gated_delta_update(q, k, v[:, :, :3], g, beta)


def test_install_works_before_and_after_the_import_of_mlx_lm():
    program = """
import sys
import gqmm.mlx
if sys.argv[1] == "before":
    import mlx_lm.models.qwen3_next
gqmm.mlx.install()
assert "mlx_lm" not in sys.modules or sys.argv[1] == "before"
from mlx_lm.models import gated_delta, kimi_linear, qwen3_next
ours = gated_delta.gated_delta_ops
assert ours.__wrapped__ is not ours
gqmm.mlx.uninstall()
assert gated_delta.gated_delta_ops is ours.__wrapped__
with gqmm.mlx.install(without=["gated_delta_update"]):
    assert gated_delta.gated_delta_ops is ours.__wrapped__
with gqmm.mlx.install():
    assert gated_delta.gated_delta_ops is ours
"""
    for when in ("before", "after"):
        subprocess.run([sys.executable, "-c", program, when], check=True)


def test_a_function_that_a_program_kept_is_stocks_after_uninstall():
    arguments = operands()
    with drop_in.install():
        kept = gated_delta.gated_delta_ops
    with stock():
        assert_equal(kept(*arguments), gated_delta.gated_delta_ops(*arguments))
