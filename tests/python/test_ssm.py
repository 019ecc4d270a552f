"""State space models: values against float64, against mlx-lm's function, the arrays of each library, and what is refused."""

from __future__ import annotations

import gqmm
import ml_dtypes
import numpy as np
import pytest
from ssm_oracle import exact

B, T, G, H, N, DH = 2, 21, 2, 4, 48, 40


def operands(rng, dtype=np.float32):
    """The operands as models have them: time steps from small ones to several, and A between -1 and -16."""
    x = rng.standard_normal((B, T, H, DH))
    b, c = rng.standard_normal((2, B, T, G, N))
    a_log, d = rng.uniform(0, 2.8, H), rng.standard_normal(H)
    dt, dt_bias = rng.standard_normal((B, T, H)), rng.uniform(-5, 1, H)
    x, b, c, d, dt = (a.astype(dtype) for a in (x, b, c, d, dt))
    return [x, a_log.astype(np.float32), b, c, d, dt, dt_bias.astype(np.float32)]


# What an element of the state is made of has decayed by up to T factors. The relative error of a factor e^-z is a few roundings,
# and a few more times z, where z · e^-z is below 1. A step adds some, and the sum over N has 7. So T times 50 roundings are more
# than enough; docs/reference/numerics.md has the bound itself, which the C++ tests compare with.
TOLERANCE = 50 * T * 2.0**-24


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("padding", ["none", "mask", "lengths"])
def test_values(rng, dtype, padding):
    arguments = operands(rng, dtype)
    state = rng.standard_normal((B, H, DH, N), np.float32)
    options, counts = {}, np.ones((B, T), bool)
    if padding == "mask":
        counts = options["mask"] = rng.random((B, T)) < 0.7
    elif padding == "lengths":
        options["lengths"] = np.array([T - 3, T + 1])
        counts = np.arange(T) < options["lengths"][:, None]
    y, after = gqmm.ssm_update(*arguments, state, **options)
    assert y.dtype == dtype
    assert after.dtype == np.float32
    expected, expected_state, of_y, of_state = exact(*arguments, state, counts)
    assert (np.abs(after - expected_state) <= TOLERANCE * of_state).all()
    rounding = float(ml_dtypes.finfo(dtype).eps) / 2
    assert (np.abs(y.astype(np.float64) - expected) <= rounding * np.abs(expected) + TOLERANCE * of_y).all()
    assert (y[~counts] == 0).all()

    out, state_out = np.empty_like(y), np.empty_like(after)
    stream = gqmm.Stream(threads=3)
    results = gqmm.ssm_update(*arguments, state, **options, stream=stream, out=out, state_out=state_out)
    assert results[0] is out
    assert results[1] is state_out
    np.testing.assert_array_equal(out, y)
    np.testing.assert_array_equal(state_out, after)
    gqmm.ssm_update(*arguments, state, **options, state_out=state)
    np.testing.assert_array_equal(state, after)


def test_the_limits_of_time_steps(rng):
    arguments = operands(rng)
    limit = (0.05, 0.5)
    y, after = gqmm.ssm_update(*arguments, None, limit)
    zeros, counts = np.zeros((B, H, DH, N)), np.ones((B, T), bool)
    expected, expected_state, of_y, of_state = exact(*arguments, zeros, counts, limit)
    assert (np.abs(after - expected_state) <= TOLERANCE * of_state).all()
    assert (np.abs(y - expected) <= TOLERANCE * of_y).all()
    wide, _ = gqmm.ssm_update(*arguments, time_step_limit=[0.0, float("inf")])
    assert not np.array_equal(wide, y)


@pytest.mark.parametrize("chunk", [1, 4, 20])
def test_chunks_have_the_bits_of_the_whole(rng, chunk):
    x, a_log, b, c, d, dt, dt_bias = operands(rng, ml_dtypes.bfloat16)
    y, after = gqmm.ssm_update(x, a_log, b, c, d, dt, dt_bias)
    state, parts = None, []
    for first in range(0, T, chunk):
        x_part, b_part, c_part, dt_part = (a[:, first : first + chunk] for a in (x, b, c, dt))
        part, state = gqmm.ssm_update(x_part, a_log, b_part, c_part, d, dt_part, dt_bias, state)
        parts.append(part)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), y)
    np.testing.assert_array_equal(state, after)


@pytest.mark.mlx
def test_mlx_lms_own_function(rng):
    mx = pytest.importorskip("mlx.core")
    ssm = pytest.importorskip("mlx_lm.models.ssm")
    arguments = operands(rng)
    state = rng.standard_normal((B, H, DH, N), np.float32)
    counts = np.arange(T) >= np.array([0, 5])[:, None]
    y, after = gqmm.ssm_update(*map(mx.array, arguments), mx.array(state), mask=mx.array(counts))
    assert isinstance(y, mx.array)
    stock, stock_after = ssm.ssm_attn(*map(mx.array, arguments), mx.array(state), mask=mx.array(counts))
    assert (y.dtype, after.dtype) == (stock.dtype, stock_after.dtype)
    of_y, of_state = exact(*arguments, state, counts)[2:]
    # Both are within the tolerance of the exact values. mlx-lm's sums over tokens add T roundings to N.
    assert (np.abs(np.array(after) - np.array(stock_after)) <= 2 * TOLERANCE * of_state).all()
    error = np.abs(np.array(y) - np.array(stock))
    assert (error <= 2 * TOLERANCE * of_y)[counts].all()


def test_torch(rng):
    torch = pytest.importorskip("torch")
    arguments = operands(rng)
    expected = gqmm.ssm_update(*arguments)
    results = gqmm.ssm_update(*map(torch.from_numpy, arguments))
    for result, of_numpy in zip(results, expected, strict=True):
        assert isinstance(result, torch.Tensor)
        np.testing.assert_array_equal(result.numpy(), of_numpy)
    state = torch.zeros((B, H, DH, N))
    _, after = gqmm.ssm_update(*map(torch.from_numpy, arguments), state, state_out=state)
    assert after is state
    np.testing.assert_array_equal(state.numpy(), expected[1])


def test_jax(rng):
    jnp = pytest.importorskip("jax.numpy")
    arguments = operands(rng)
    results = gqmm.ssm_update(*map(jnp.asarray, arguments))
    for result, of_numpy in zip(results, gqmm.ssm_update(*arguments), strict=True):
        assert isinstance(result, jnp.ndarray)
        np.testing.assert_array_equal(np.asarray(result), of_numpy)


def test_errors(rng):
    arguments = operands(rng)
    x, *rest = arguments
    with pytest.raises(ValueError, match=r"\[ssm_update\] hidden_states has 3 heads but C and B have 2; hidden_states must have"):
        gqmm.ssm_update(x[:, :, :3], *rest)
    with pytest.raises(ValueError, match=r"state is float32 \(2, 4, 48, 40\); it must be float32 \(2, 4, 40, 48\)"):
        gqmm.ssm_update(*arguments, np.zeros((B, H, N, DH), np.float32))
    with pytest.raises(ValueError, match=r"time_step_limit is \(1, 0.5\); it must be two numbers"):
        gqmm.ssm_update(*arguments, time_step_limit=(1, 0.5))
    with pytest.raises(ValueError, match="lengths has type float64; convert it to an integer type"):
        gqmm.ssm_update(*arguments, lengths=np.ones(B))
    with pytest.raises(ValueError, match="out overlaps the memory of hidden_states; pass memory of its own"):
        gqmm.ssm_update(*arguments, out=x)
    with pytest.raises(TypeError, match=r"\[ssm_update\] time_step_limit = 0.5 must be a tuple of two numbers"):
        gqmm.ssm_update(*arguments, time_step_limit=0.5)
    with pytest.raises(TypeError, match=r"\[ssm_update\] "):
        gqmm.ssm_update(*arguments, state="zeros")
