"""State space models through MLX: values, bits and transforms, and the function of mlx-lm that install() replaces."""

from __future__ import annotations

import re
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
from mlx_lm.models import mamba2, nemotron_h, ssm
from mlx_lm_support import assert_same_derivatives, assert_trains_as_with_stock, evaluated, stock
from ssm_oracle import exact

pytestmark = pytest.mark.mlx

DTYPES = [mx.float32, mx.float16, mx.bfloat16]
UNIT = {mx.float32: 2.0**-24, mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}
B, T, G, H, N, DH = 3, 13, 2, 4, 40, 24
PADDING = (0, 5, 1)  # on the left


def counts():
    calls = drop_in.status().calls["ssm_update"]
    return calls.ours, calls.stock


def operands(dtype=mx.float32):
    """hidden_states, A_log, B, C, D, dt and dt_bias; a state, and a mask that leaves out padding on the left."""
    keys = iter(mx.random.split(mx.random.key(4), 8))
    x = mx.random.normal((B, T, H, DH), key=next(keys))
    b, c = (mx.random.normal((B, T, G, N), key=next(keys)) for _ in range(2))
    d, dt = mx.random.normal((H,), key=next(keys)), mx.random.normal((B, T, H), key=next(keys))
    x, b, c, d, dt = (a.astype(dtype) for a in (x, b, c, d, dt))
    a_log, dt_bias = mx.random.uniform(0, 2.8, (H,), key=next(keys)), mx.random.uniform(-5, 1, (H,), key=next(keys))
    state = mx.random.normal((B, H, DH, N), key=next(keys))
    return [x, a_log, b, c, d, dt, dt_bias, state, mx.arange(T) >= mx.array(PADDING)[:, None]]


def tokens(arguments, part):
    """The same arguments with a part of the tokens alone, without a state and a mask."""
    x, a_log, b, c, d, dt, dt_bias = arguments[:7]
    return [x[part], a_log, b[part], c[part], d, dt[part], dt_bias]


def needs_masked_decay():
    """Skips the test if the installed mlx-lm lets a state decay at tokens that the mask leaves out, as 0.32.0 does."""
    *arrays, state, _ = operands()
    _, after = ssm.ssm_update(*arrays, state=state, mask=mx.zeros((B, T), dtype=mx.bool_))
    if not mx.allclose(after, state):
        pytest.skip("this mlx-lm lets a state decay at tokens that the mask leaves out")


def assert_equal(results, expected):
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(evaluated(result), evaluated(wanted))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("given", ["nothing", "state", "mask", "state and mask", "state and lengths"])
def test_values(dtype, given):
    *arrays, state, mask = operands(dtype)
    options = {name: a for name, a in (("state", state), ("mask", mask)) if name in given}
    counted = np.array(mask) if "mask" in given else np.ones((B, T), bool)
    if "lengths" in given:
        options["lengths"] = mx.array([T, 7, 1])
        counted = np.arange(T) < np.array(options["lengths"])[:, None]
    before = counts()
    y, after = drop_in.ssm_update(*arrays, **options)
    assert counts() == (before[0] + 1, before[1])
    assert (y.shape, y.dtype, after.shape, after.dtype) == ((B, T, H, DH), dtype, (B, H, DH, N), mx.float32)
    assert_equal((y, after), gqmm.ssm_update(*arrays, **options))
    if given in ("state and mask", "state and lengths"):
        needs_masked_decay()
    # mlx-lm's function needs the mask of the lengths besides these.
    stock_options = options | ({"mask": mx.array(counted)} if "lengths" in given else {})
    stock_y, stock_after = ssm.ssm_update(*arrays, **stock_options)
    assert (y.dtype, after.dtype) == (stock_y.dtype, stock_after.dtype)
    wide = [a.astype(mx.float32) for a in arrays]
    of_y, of_state = exact(*wide, state if "state" in given else mx.zeros_like(state), counted)[2:]
    # A factor e^-z has a relative error of z times some roundings, and mlx-lm's function adds up the z of all T tokens first. The
    # error that is left is at most z · e^-z times that, below 1, for each of them. Its products of matrices sum over T and N.
    error = 2.0**-24 * (N + 8 * T + 50)
    assert (abs(evaluated(after) - evaluated(stock_after)) <= error * of_state).all()
    difference = abs(evaluated(y.astype(mx.float32)) - evaluated(stock_y.astype(mx.float32)))
    # mlx-lm rounds the sum and D · x to the type, and then what they add up to.
    assert (difference <= (error + (4 * UNIT[dtype] if dtype != mx.float32 else 0)) * of_y)[counted].all()
    assert (evaluated(y)[~counted] == 0).all()


def test_bits_do_not_depend_on_chunks_batch_or_padding():
    arguments = operands(mx.bfloat16)
    state, mask = arguments[7:]
    y, after = drop_in.ssm_update(*arguments[:8], mask=mask)
    for chunk in (1, 5):
        parts, now = [], state
        for first in range(0, T, chunk):
            some = (slice(None), slice(first, first + chunk))
            part, now = drop_in.ssm_update(*tokens(arguments, some), now, mask=mask[some])
            parts.append(part)
        assert_equal((mx.concatenate(parts, 1), now), (y, after))
    for i, left in enumerate(PADDING):
        alone = tokens(arguments, (slice(i, i + 1), slice(left, None)))
        assert_equal(drop_in.ssm_update(*alone, state[i : i + 1]), (y[i : i + 1, left:], after[i : i + 1]))


def test_bits_do_not_depend_on_threads():
    """The work is large enough to be divided."""
    x, b, c = (mx.random.normal((1, 40, 8, 128), key=mx.random.key(i)) for i in range(3))
    dt, rates = mx.random.normal((1, 40, 8), key=mx.random.key(4)), mx.random.uniform(0, 1, (8,), key=mx.random.key(5))
    expected = None
    try:
        for count in (1, 2, 7):
            gqmm.set_num_threads(count)
            results = drop_in.ssm_update(x, rates, b, c, rates, dt, rates)
            mx.eval(results)
            expected = expected or results
            assert_equal(results, expected)
    finally:
        gqmm.set_num_threads(0)


def test_a_state_that_nothing_else_holds_gives_its_memory():
    """The new state takes its place, also in a chain of calls. A state that someone holds keeps its values."""
    arguments = operands()
    state = arguments[7]
    held = evaluated(state)
    one = [tokens(arguments, (slice(None), slice(t, t + 1))) for t in range(T)]
    expected, before = [], state
    for token in one:
        expected.append(gqmm.ssm_update(*token, before))
        before = expected[-1][1]
    mx.eval(state)
    now, rows = state, []
    for token in one:  # one graph
        y, now = drop_in.ssm_update(*token, now)
        rows.append(y)
    assert_equal([*rows, now], [*(y for y, _ in expected), expected[-1][1]])
    np.testing.assert_array_equal(evaluated(state), held)


def test_tokens_in_turn_need_memory_for_one_state():
    state = mx.zeros((1, H, 512, 512))
    x, b, rates = mx.zeros((1, 1, H, 512)), mx.zeros((1, 1, G, 512)), mx.zeros((H,))
    dt = mx.zeros((1, 1, H))
    mx.eval(state, x, b, rates, dt)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    for _ in range(3):
        y, state = drop_in.ssm_update(x, rates, b, b, rates, dt, rates, state)
        mx.eval(y, state)
    assert mx.get_peak_memory() - before < state.nbytes / 2


def long_operands():
    """More than 256 tokens, which MLX's functions compute in pieces, with time steps that leave something of the state."""
    keys = iter(mx.random.split(mx.random.key(9), 5))
    x, b, c = (0.3 * mx.random.normal((1, 300, 2, 8), key=next(keys)) for _ in range(3))
    dt = mx.random.normal((1, 300, 2), key=next(keys))
    return [x, mx.array([-3.0, 0.0]), b, c, mx.array([0.5, -1.0]), dt, mx.array([-3.0, -4.0])]


@pytest.mark.parametrize("name", ["all", "without a state", "more than a piece"])
def test_transforms(name):
    *arrays, mask = operands()
    ours, theirs = drop_in.ssm_update, ssm.ssm_update
    if name == "all":
        needs_masked_decay()

        def ours(*arrays):
            return drop_in.ssm_update(*arrays, mask=mask)

        def theirs(*arrays):
            y, after = ssm.ssm_update(*arrays, mask=mask)
            return mx.where(mask[..., None, None], y, 0), after

    else:
        arrays = long_operands() if "more" in name else arrays[:7]
    assert_same_derivatives(ours, theirs, arrays)
    expected = ours(*arrays)
    assert_equal(mx.compile(ours)(*arrays), expected)
    batched = [mx.stack([a, 0.5 * a], axis=1) for a in arrays]
    tokens_and_state = tuple(1 if a.ndim > 1 else None for a in arrays)
    of_heads_alone = [b if axis else a for a, b, axis in zip(arrays, batched, tokens_and_state, strict=True)]
    together = mx.vmap(ours, in_axes=tokens_and_state, out_axes=1)(*of_heads_alone)
    for i in range(2):
        one = [a[:, i] if axis else a for a, axis in zip(of_heads_alone, tokens_and_state, strict=True)]
        assert_equal([a[:, i] for a in together], ours(*one))
    together = mx.vmap(ours)(*(mx.stack([a, a]) for a in arrays))  # what belongs to heads is in MLX's functions then
    for a, b in zip(together, expected, strict=True):
        assert mx.allclose(a[1], b, rtol=1e-4, atol=1e-5 * mx.abs(b).max().item())


def test_gradients_of_padding_that_is_not_finite_are_zero():
    x, a_log, b, c, d, dt, dt_bias, state, mask = operands()

    def dirty(a):
        return mx.where(mask.reshape(B, T, *[1] * (a.ndim - 2)), a, mx.nan)

    def loss(x, b, c, dt):
        y, after = drop_in.ssm_update(x, a_log, b, c, d, dt, dt_bias, state, mask=mask)
        return (y**2).sum() + (after**2).sum()

    clean, unclean = (x, b, c, dt), [dirty(a) for a in (x, b, c, dt)]
    argnums = tuple(range(4))
    assert_equal([loss(*unclean)], [loss(*clean)])
    for a, expected in zip(mx.grad(loss, argnums)(*unclean), mx.grad(loss, argnums)(*clean), strict=True):
        np.testing.assert_array_equal(evaluated(a), evaluated(expected))
        assert (evaluated(a)[~np.array(mask)] == 0).all()


def test_a_layer_of_nemotron_h_trains_as_with_stock():
    config = FAMILIES["nemotron_h"].full_config()
    layer = nemotron_h.NemotronHMamba2Mixer(nemotron_h.ModelArgs.from_dict(config))
    x = mx.random.normal((2, T, config["hidden_size"]), key=mx.random.key(1))
    names = assert_trains_as_with_stock(layer, x, "ssm_update")
    assert names >= {"A_log", "D", "dt_bias", "conv1d.weight", "in_proj.weight"}


def test_the_function_of_models_is_replaced_and_restored():
    *arrays, state, mask = operands(mx.bfloat16)
    stock_function = mamba2.ssm_update
    before = counts()
    with drop_in.install(only=["ssm_update"]):
        assert drop_in.status().operators == ("ssm_update",)
        assert mamba2.ssm_update is ssm.ssm_update is not stock_function
        results = mamba2.ssm_update(*arrays, state, [0.01, float("inf")], mask, None)
        assert counts() == (before[0] + 1, before[1])
    assert mamba2.ssm_update is ssm.ssm_update is stock_function
    assert_equal(results, gqmm.ssm_update(*arrays, state, (0.01, float("inf")), mask))


def test_what_gqmm_does_not_serve_is_stocks():
    *arrays, state, mask = operands()
    x, a_log, b, c, d, dt, dt_bias = arrays
    calls = [
        lambda: ssm.ssm_update(*arrays, state.astype(mx.bfloat16)),
        lambda: ssm.ssm_update(x, a_log, b, c, d[0], dt, dt_bias[:1], state),  # broadcast
        lambda: ssm.ssm_update(*arrays, state, mask=mask.astype(mx.float32)),
        lambda: ssm.ssm_update(*arrays, state, (0.5, 0.1)),
    ]
    with stock():
        expected = []
        for call in calls:
            try:
                expected.append([evaluated(a) for a in call()])
            except ValueError as error:  # mlx-lm's own error
                expected.append(str(error))
    before = counts()
    with drop_in.install(only=["ssm_update"]):
        for call, wanted in zip(calls, expected, strict=True):
            if isinstance(wanted, str):
                with pytest.raises(ValueError, match=re.escape(wanted)):
                    call()
            else:
                for result, array in zip(call(), wanted, strict=True):
                    np.testing.assert_array_equal(evaluated(result), array)
        assert counts() == (before[0], before[1] + len(calls))
    with pytest.raises(ValueError, match=r"\[ssm_update\] hidden_states has 3 heads but C and B have 2"):
        drop_in.ssm_update(x[:, :, :3], a_log, b, c, d, dt, dt_bias)


def test_install_works_before_and_after_the_import_of_mlx_lm():
    program = """
import sys
import gqmm.mlx
if sys.argv[1] == "before":
    import mlx_lm.models.nemotron_h
gqmm.mlx.install()
assert "mlx_lm" not in sys.modules or sys.argv[1] == "before"
from mlx_lm.models import nemotron_h, ssm
ours = ssm.ssm_update
assert nemotron_h.ssm_update is ours
assert ours.__wrapped__ is not ours
gqmm.mlx.uninstall()
assert nemotron_h.ssm_update is ssm.ssm_update is ours.__wrapped__
with gqmm.mlx.install(without=["ssm_update"]):
    assert nemotron_h.ssm_update is ours.__wrapped__
"""
    for when in ("before", "after"):
        subprocess.run([sys.executable, "-c", program, when], check=True)


def test_a_function_that_a_program_kept_is_stocks_after_uninstall():
    *arrays, state, mask = operands()
    with drop_in.install():
        kept = ssm.ssm_update
    with stock():
        assert_equal(kept(*arrays, state, mask=mask), ssm.ssm_update(*arrays, state, mask=mask))
