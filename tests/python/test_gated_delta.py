"""The gated delta rule: values against float64, against mlx-lm's loop, the arrays of each library, and what it refuses."""

from __future__ import annotations

import gqmm
import ml_dtypes
import numpy as np
import pytest

B, T, HK, HV, DK, DV = 2, 21, 2, 4, 48, 40


def operands(rng, dtype=np.float32, vector=False):
    """q, k, v, g and beta as models have them: keys of length 1, decay and beta between 0 and 1."""
    q, k = (rng.standard_normal((B, T, HK, DK)) for _ in range(2))
    q, k = (a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (q, k))
    v = rng.standard_normal((B, T, HV, DV))
    g = rng.uniform(0.5, 1, (B, T, HV, DK) if vector else (B, T, HV))
    beta = rng.uniform(0, 1, (B, T, HV))
    return [a.astype(dtype) for a in (q, k, v)] + [a.astype(np.float32) for a in (g, beta)]


def exact(q, k, v, g, beta, state, mask):
    """The same in float64."""
    q, k, v, g, beta, state = (a.astype(np.float64) for a in (q, k, v, g, beta, state))
    q, k = (np.repeat(a, HV // HK, axis=2) for a in (q, k))
    y = np.zeros(v.shape)
    for b, t in zip(*np.nonzero(mask), strict=True):
        decay = g[b, t][:, None, :] if g.ndim == 4 else g[b, t][:, None, None]
        s = state[b] * decay
        delta = (v[b, t] - np.einsum("hvk,hk->hv", s, k[b, t])) * beta[b, t][:, None]
        state[b] = s + delta[..., None] * k[b, t][:, None, :]
        y[b, t] = np.einsum("hvk,hk->hv", state[b], q[b, t])
    return y, state


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("vector", [False, True], ids=["a factor for each head", "a factor for each element"])
@pytest.mark.parametrize("masked", [False, True])
def test_values(rng, dtype, vector, masked):
    arguments = operands(rng, dtype, vector)
    state = rng.standard_normal((B, HV, DV, DK), np.float32)
    mask = rng.random((B, T)) < 0.7 if masked else np.ones((B, T), bool)
    y, after = gqmm.gated_delta_update(*arguments, state, mask if masked else None)
    assert y.dtype == dtype
    assert after.dtype == np.float32
    expected, expected_state = exact(*arguments, state, mask)
    # For keys of length 1 an error never grows; a token adds some tens of roundings of a row of the state, of length 7 here.
    error = 40 * 2.0**-24 * 7 * T
    np.testing.assert_allclose(after, expected_state, rtol=0, atol=error)
    rounding = float(ml_dtypes.finfo(dtype).eps) / 2
    np.testing.assert_allclose(y.astype(np.float64), expected, rtol=rounding, atol=error)
    assert (y[~mask] == 0).all()

    out, state_out = np.empty_like(y), np.empty_like(after)
    stream = gqmm.Stream(threads=3)
    passed = mask if masked else None
    results = gqmm.gated_delta_update(*arguments, state, mask=passed, stream=stream, out=out, state_out=state_out)
    assert results[0] is out
    assert results[1] is state_out
    np.testing.assert_array_equal(out, y)
    np.testing.assert_array_equal(state_out, after)
    gqmm.gated_delta_update(*arguments, state, passed, state_out=state)
    np.testing.assert_array_equal(state, after)


@pytest.mark.parametrize("chunk", [1, 4, 20])
def test_chunks_have_the_bits_of_the_whole(rng, chunk):
    arguments = operands(rng, ml_dtypes.bfloat16)
    y, after = gqmm.gated_delta_update(*arguments)
    state, parts = None, []
    for first in range(0, T, chunk):
        part, state = gqmm.gated_delta_update(*[a[:, first : first + chunk] for a in arguments], state)
        parts.append(part)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), y)
    np.testing.assert_array_equal(state, after)


@pytest.mark.mlx
@pytest.mark.parametrize("vector", [False, True], ids=["a factor for each head", "a factor for each element"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mlx_lms_own_loop(rng, dtype, vector):
    mx = pytest.importorskip("mlx.core")
    gated_delta = pytest.importorskip("mlx_lm.models.gated_delta")
    q, k, v, g, beta = map(mx.array, operands(rng, vector=vector))
    q, k, v = (a.astype(getattr(mx, dtype)) for a in (q, k, v))
    state = mx.array(rng.standard_normal((B, HV, DV, DK), np.float32))
    mask = mx.array(rng.random((B, T)) < 0.7)
    y, after = gqmm.gated_delta_update(q, k, v, g, beta, state, mask)
    assert isinstance(y, mx.array)
    stock, stock_after = gated_delta.gated_delta_ops(q, k, v, g, beta, state, mask)
    assert (y.dtype, after.dtype) == (stock.dtype, stock_after.dtype)
    assert mx.allclose(after, stock_after, rtol=0, atol=1e-4)
    # The loop does not set y of padding to zero, as MLX's kernels do.
    counted = mx.where(mask[..., None, None], stock, 0)
    tolerance = 1e-4 if dtype == "float32" else 2**-6
    assert mx.allclose(y.astype(mx.float32), counted.astype(mx.float32), rtol=2**-7 if dtype == "bfloat16" else 0, atol=tolerance)


def test_torch(rng):
    torch = pytest.importorskip("torch")
    arguments = operands(rng)
    expected = gqmm.gated_delta_update(*arguments)
    results = gqmm.gated_delta_update(*[torch.from_numpy(a) for a in arguments])
    for result, of_numpy in zip(results, expected, strict=True):
        assert isinstance(result, torch.Tensor)
        np.testing.assert_array_equal(result.numpy(), of_numpy)
    state = torch.zeros((B, HV, DV, DK))
    _, after = gqmm.gated_delta_update(*[torch.from_numpy(a) for a in arguments], state, state_out=state)
    assert after is state
    np.testing.assert_array_equal(state.numpy(), expected[1])


def test_jax(rng):
    jnp = pytest.importorskip("jax.numpy")
    arguments = operands(rng)
    results = gqmm.gated_delta_update(*map(jnp.asarray, arguments))
    for result, of_numpy in zip(results, gqmm.gated_delta_update(*arguments), strict=True):
        assert isinstance(result, jnp.ndarray)
        np.testing.assert_array_equal(np.asarray(result), of_numpy)


def test_errors(rng):
    q, k, v, g, beta = operands(rng)
    with pytest.raises(ValueError, match=r"\[gated_delta_update\] v has 3 heads but q and k have 2; v must have"):
        gqmm.gated_delta_update(q, k, v[:, :, :3], g, beta)
    with pytest.raises(ValueError, match=r"g has shape \(2, 21, 2\); it must be \(2, 21, 4\), a factor for each head of v, or"):
        gqmm.gated_delta_update(q, k, v, g[..., :2], beta)
    with pytest.raises(ValueError, match=r"state is float32 \(2, 4, 48, 40\); it must be float32 \(2, 4, 40, 48\)"):
        gqmm.gated_delta_update(q, k, v, g, beta, np.zeros((B, HV, DK, DV), np.float32))
    with pytest.raises(ValueError, match=r"mask is int64 \(2, 21\); it must be bool \(2, 21\)"):
        gqmm.gated_delta_update(q, k, v, g, beta, mask=np.ones((B, T), np.int64))
    with pytest.raises(ValueError, match="out overlaps the memory of v; pass memory of its own"):
        gqmm.gated_delta_update(q, k, v, g, beta, out=v)
    with pytest.raises(TypeError, match=r"\[gated_delta_update\] "):
        gqmm.gated_delta_update(q, k, v, 0.5, beta, mask="causal")
