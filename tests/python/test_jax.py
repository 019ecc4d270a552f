"""JAX arrays in place, and results as JAX arrays."""

from __future__ import annotations

import gqmm
import numpy as np
import oracle
import pytest
from oracle import Setting

jax = pytest.importorskip("jax", reason="JAX is not installed (./dev test all installs it)")
pytestmark = pytest.mark.jax


@pytest.mark.parametrize("dtype", oracle.FLOATS, ids=str)
def test_arrays_give_the_bits_of_numpy(rng, dtype):
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (3,), 5, 128, dtype=dtype)
    x = rng.standard_normal((3, 4, 128)).astype(dtype)
    rhs = np.array([2, 0, 1], np.int32)
    y = gqmm.gather_qmm(*map(jax.numpy.asarray, (x, *weights.arrays())), rhs_indices=jax.numpy.asarray(rhs))
    assert isinstance(y, jax.Array)
    assert oracle.same_bits(np.asarray(y), gqmm.gather_qmm(x, *weights.arrays(), rhs_indices=rhs))


def test_every_function_returns_arrays(rng):
    w = jax.numpy.asarray(rng.standard_normal((3, 5, 128)).astype(np.float32))
    codes, scales, biases = gqmm.quantize(w)
    results = [
        codes,
        scales,
        biases,
        gqmm.dequantize(codes, scales, biases, dtype=jax.numpy.bfloat16),
        gqmm.quantized_matmul(w, codes, scales, biases),
        gqmm.gather_mm(w, w.mT),
        gqmm.gather_qmm(w, gqmm.pack(codes, scales, biases)),
        gqmm.gather_qmm(w[:, :0], codes, scales, biases),
        *gqmm.unpack(gqmm.pack(codes, scales, biases), like=w)[:3],
    ]
    assert all(isinstance(result, jax.Array) for result in results)
    assert results[3].dtype == jax.numpy.bfloat16
    assert all(oracle.same_bits(np.asarray(a), np.asarray(b)) for a, b in zip(results[-3:], results[:3], strict=True))


def test_results_outlive_everything_else(rng):
    w = jax.numpy.asarray(rng.standard_normal((2, 64)).astype(np.float32))
    codes, scales, biases = gqmm.quantize(w)
    back = gqmm.dequantize(codes, scales, biases)
    del w, codes, scales, biases
    assert bool(jax.numpy.isfinite(back).all())


def test_traced_values_are_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"\[quantize\] w: a traced JAX value has no memory.*outside jit.*pure_callback"):
        jax.jit(lambda w: gqmm.quantize(w)[0])(jax.numpy.ones((2, 64)))
