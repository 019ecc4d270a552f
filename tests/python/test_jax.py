"""JAX arrays in place, and results as JAX arrays."""

from __future__ import annotations

import copy
import os
import pickle

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"  # read by the first call

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


def on_second_device(a: np.ndarray) -> jax.Array:
    return jax.device_put(a, jax.devices("cpu")[1])


def test_results_are_on_the_device_of_x(rng):
    w = rng.standard_normal((3, 5, 128)).astype(np.float32)
    quantized = gqmm.quantize(on_second_device(w))
    packed = gqmm.pack(*quantized)
    x = on_second_device(w[:, :2])
    results = [
        *quantized,
        gqmm.dequantize(*quantized),
        gqmm.quantized_matmul(x, *quantized),
        gqmm.gather_qmm(x, packed),
        gqmm.gather_mm(x, on_second_device(np.ascontiguousarray(w.mT))),
        *gqmm.unpack(packed, like=x)[:3],
    ]
    assert [result.devices() for result in results] == [{jax.devices("cpu")[1]}] * len(results)
    assert oracle.same_bits(np.asarray(results[4]), gqmm.quantized_matmul(w[:, :2], *gqmm.quantize(w)))
    mixed = gqmm.quantized_matmul(jax.device_put(w[:, :2], jax.devices("cpu")[0]), *quantized)
    assert mixed.devices() == {jax.devices("cpu")[0]}


def test_arrays_on_several_devices_are_refused_with_the_remedy():
    mesh = jax.sharding.Mesh(np.array(jax.devices("cpu")), "i")
    for spec in (jax.sharding.PartitionSpec("i"), jax.sharding.PartitionSpec()):
        w = jax.device_put(np.ones((2, 64), np.float32), jax.sharding.NamedSharding(mesh, spec))
        with pytest.raises(
            ValueError, match=r"\[quantize\] w: it is spread over 2 devices; move it to one first, with jax.device_put"
        ):
            gqmm.quantize(w)


def test_deleted_and_donated_arrays_are_refused_as_such():
    deleted = jax.numpy.ones((2, 64))
    deleted.delete()
    donated = jax.numpy.ones((2, 64))
    jax.jit(lambda a: a + 1, donate_argnums=0)(donated)
    for gone in (deleted, donated):
        with pytest.raises(ValueError, match=r"\[quantize\] w: its memory is gone: the array was deleted, or donated"):
            gqmm.quantize(gone)


@pytest.mark.parametrize("setting", oracle.MICROSCALING, ids=str)
def test_scales_may_have_their_own_type(rng, setting):
    weights = oracle.random_weights(rng, setting, (3,), 5, 128)
    x = rng.standard_normal((3, 2, 128)).astype(np.float32)
    expected = gqmm.gather_qmm(x, *weights.arrays(), **setting.arguments())
    dtype = getattr(jax.numpy, setting.format.scales)
    scales = jax.numpy.asarray(weights.scales).view(dtype)
    assert oracle.same_bits(gqmm.gather_qmm(x, weights.w, scales, **setting.arguments()), expected)


@pytest.mark.parametrize(
    "transform", [jax.vmap, jax.grad, lambda f: lambda w: jax.eval_shape(f, w)], ids=["vmap", "grad", "shape"]
)
def test_traced_values_of_other_transforms_are_refused(transform):
    with pytest.raises(TypeError, match=r"\[quantize\] w: a traced JAX value has no memory"):
        transform(lambda w: gqmm.quantize(w)[1].sum())(jax.numpy.ones((2, 2, 64)))


def test_quantized_weights_hold_arrays(rng):
    weights = gqmm.QuantizedWeights(*gqmm.quantize(jax.numpy.asarray(rng.standard_normal((3, 5, 128)).astype(np.float32))))
    x = jax.numpy.asarray(rng.standard_normal((3, 2, 128)).astype(np.float32))
    assert isinstance(weights.w, jax.Array)
    assert isinstance(gqmm.dequantize(weights), jax.Array)
    expected = np.asarray(gqmm.gather_qmm(x, weights.w, weights.scales, weights.biases))
    again = pickle.loads(pickle.dumps(weights))
    for same in (weights, again, copy.deepcopy(weights), gqmm.pack(weights)):
        assert oracle.same_bits(np.asarray(gqmm.gather_qmm(x, same)), expected)
