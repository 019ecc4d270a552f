"""moe_ffn, grouped_qmm, grouped_mm and missing rows: values against NumPy, arrays of every library, and what they refuse."""

from __future__ import annotations

import copy
import pickle

import gqmm
import ml_dtypes
import numpy as np
import pytest

E, H, I, TOKENS, K = 6, 96, 64, 7, 3  # noqa: E741


def quantized(rng, outputs, inputs, leading=(E,), **settings):
    dense = rng.standard_normal((*leading, outputs, inputs), dtype=np.float32) / np.float32(np.sqrt(inputs))
    settings = {"group_size": 32, "bits": 4} | settings
    return gqmm.QuantizedWeights(*gqmm.quantize(dense, **settings), **settings)


class Layer:
    """A layer with operands that fit each other."""

    def __init__(self, rng, dtype=np.float32):
        self.x = rng.standard_normal((TOKENS, H), dtype=np.float32).astype(dtype)
        self.ids = rng.integers(0, E, (TOKENS, K))
        self.weights = rng.random((TOKENS, K), dtype=np.float32)
        self.gate, self.up = quantized(rng, I, H), quantized(rng, I, H)
        self.down = quantized(rng, H, I, bits=8)

    def __call__(self, **changes):
        arguments = {name: changes.pop(name, getattr(self, name)) for name in ("x", "ids", "weights", "gate", "up", "down")}
        return gqmm.moe_ffn(*arguments.values(), **changes)


@pytest.fixture
def layer(rng):
    return Layer(rng)


def float64(weights):
    return (
        gqmm.dequantize(weights).astype(np.float64) if isinstance(weights, gqmm.QuantizedWeights) else weights.astype(np.float64)
    )


def expected_slots(layer, gate_bias=0.0, up_bias=0.0, down_bias=0.0):
    gate, up, down = map(float64, (layer.gate, layer.up, layer.down))
    x = layer.x.astype(np.float64)
    g = np.einsum("th,tkih->tki", x, gate[layer.ids]) + gate_bias
    u = np.einsum("th,tkih->tki", x, up[layer.ids]) + up_bias
    return np.einsum("tki,tkhi->tkh", g / (1 + np.exp(-g)) * u, down[layer.ids]) + down_bias


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (np.float16, 2e-3), (ml_dtypes.bfloat16, 2e-2)])
def test_values(rng, dtype, tolerance):
    layer = Layer(rng, dtype)
    slots = expected_slots(layer)
    y = layer()
    assert (y.shape, y.dtype) == ((TOKENS, H), dtype)
    expected = np.einsum("tk,tkh->th", layer.weights, slots)
    assert np.abs(y.astype(np.float64) - expected).max() <= tolerance * np.abs(expected).max()
    not_added = layer(weights=None)
    assert not_added.shape == (TOKENS, K, H)
    assert np.array_equal(gqmm.moe_combine(not_added, layer.weights), y)


def test_biases_and_leading_dimensions(rng, layer):
    biases = [rng.standard_normal((E, n), dtype=np.float32) for n in (I, I, H)]
    slots = expected_slots(layer, *(bias[layer.ids] for bias in biases))
    expected = np.einsum("tk,tkh->th", layer.weights, slots)
    y = layer(
        x=layer.x.reshape(1, TOKENS, H),
        ids=layer.ids.reshape(1, TOKENS, K),
        weights=layer.weights.reshape(1, TOKENS, K),
        gate_bias=biases[0],
        up_bias=biases[1],
        down_bias=biases[2],
    )
    assert y.shape == (1, TOKENS, H)
    assert np.abs(y[0] - expected).max() <= 2e-6 * np.abs(expected).max()


def both(layer, order):
    """Gate and up as one dense layer."""
    gate, up = gqmm.dequantize(layer.gate), gqmm.dequantize(layer.up)
    match order:
        case "gate_up":
            return np.concatenate([gate, up], axis=1)
        case "up_gate":
            return np.concatenate([up, gate], axis=1)
        case _:
            return np.stack([gate, up], axis=2).reshape(E, 2 * I, H)


@pytest.mark.parametrize("order", ["gate_up", "up_gate", "interleaved"])
def test_dense_layers_and_gate_and_up_in_one(layer, order):
    expected = layer(gate=gqmm.dequantize(layer.gate), up=gqmm.dequantize(layer.up))
    assert np.array_equal(layer(gate=both(layer, order), up=None, gate_up_order=order), expected)
    packed = gqmm.pack(*gqmm.quantize(both(layer, order), group_size=32, bits=4), group_size=32, bits=4)
    separate = layer(
        gate=gqmm.QuantizedWeights(*gqmm.quantize(gqmm.dequantize(layer.gate), group_size=32, bits=4), group_size=32),
        up=gqmm.QuantizedWeights(*gqmm.quantize(gqmm.dequantize(layer.up), group_size=32, bits=4), group_size=32),
    )
    assert np.array_equal(layer(gate=packed, up=None, gate_up_order=order), separate)


def test_activations_that_are_not_gated(layer):
    y = layer(up=None, activation=gqmm.ReLU2())
    gate, down = float64(layer.gate), float64(layer.down)
    h = np.maximum(np.einsum("th,tkih->tki", layer.x, gate[layer.ids]), 0) ** 2
    expected = np.einsum("tk,tki,tkhi->th", layer.weights, h, down[layer.ids])
    assert np.abs(y - expected).max() <= 2e-6 * np.abs(expected).max()
    with pytest.raises(ValueError, match="up is given but ReLU2 is not gated"):
        layer(activation=gqmm.ReLU2())
    with pytest.raises(TypeError, match="activation: expected an activation"):
        layer(activation="silu")


def test_missing_and_local_experts(layer):
    slots = layer(weights=None)
    ids = layer.ids.copy()
    ids[1] = -1
    with pytest.raises(ValueError, match=r"topk_ids\[1, 0\] = -1 is out of range"):
        layer(ids=ids)
    some = layer(ids=ids, weights=None, missing="zero")
    assert not some[1].any()
    assert np.array_equal(np.delete(some, 1, axis=0), np.delete(slots, 1, axis=0))
    high = layer(ids=layer.ids + 10, weights=None, local_experts=(10, E))
    assert np.array_equal(high, slots)
    assert not layer(weights=None, local_experts=(E, E)).any()
    with pytest.raises(ValueError, match='unknown missing "none"'):
        layer(missing="none")
    with pytest.raises(TypeError, match="local_experts: expected a tuple of two integers"):
        layer(local_experts=4)
    with pytest.raises(ValueError, match="the count must be that of the weights"):
        layer(local_experts=(0, E + 1))


def test_shared_experts(rng, layer):
    parts = [quantized(rng, 32, H, ()), quantized(rng, 32, H, ()), quantized(rng, H, 32, ())]
    shared = gqmm.SharedExperts(*parts)
    gate, up, down = map(float64, parts)
    g = layer.x @ gate.T
    expected = layer() + (g / (1 + np.exp(-g)) * (layer.x @ up.T)) @ down.T
    assert np.abs(layer(shared=shared) - expected).max() <= 4e-6 * np.abs(expected).max()
    zero = gqmm.SharedExperts(*parts, scale=np.zeros((TOKENS, 1), np.float32))
    assert np.array_equal(layer(shared=zero), layer())
    with pytest.raises(ValueError, match="shared needs topk_weights"):
        layer(shared=shared, weights=None)
    with pytest.raises(TypeError, match=r"shared: expected gqmm\.SharedExperts or None"):
        layer(shared=parts)
    with pytest.raises(TypeError, match=r"shared\.activation: expected an activation"):
        layer(shared=gqmm.SharedExperts(*parts, activation="silu"))
    assert pickle.loads(pickle.dumps(zero)).scale.shape == (TOKENS, 1)
    assert copy.copy(shared).gate is parts[0]


def test_router_weight_on_input(layer):
    one = {"ids": layer.ids[:, :1], "weights": layer.weights[:, :1]}
    y = layer(router_weight_on_input=True, **one)
    assert np.array_equal(y, layer(x=layer.x * one["weights"], ids=one["ids"], weights=None)[:, 0])


def test_out(layer):
    out = np.full((TOKENS, H), np.nan, np.float32)
    assert layer(out=out) is out
    assert np.array_equal(out, layer())
    with pytest.raises(ValueError, match="out overlaps the memory of x"):
        layer(out=layer.x)
    rows = np.zeros((TOKENS + 1, H), np.float32)
    with pytest.raises(ValueError, match="out overlaps the memory of x"):
        layer(x=rows[1:], out=rows[:-1])


@pytest.mark.parametrize("k", range(1, 17))
def test_numbers_of_slots(rng, layer, k):
    ids = rng.integers(0, E, (TOKENS, k))  # beyond E slots, some experts have several
    weights = rng.random((TOKENS, k), dtype=np.float32)
    slots = layer(ids=ids, weights=None)
    one_by_one = [layer(ids=ids[:, j : j + 1], weights=None)[:, 0] for j in range(k)]
    assert np.array_equal(slots, np.stack(one_by_one, axis=1))
    assert np.array_equal(layer(ids=ids, weights=weights), gqmm.moe_combine(slots, weights))


def test_no_tokens(layer):
    none = {"x": layer.x[:0], "ids": layer.ids[:0]}
    assert layer(**none, weights=layer.weights[:0]).shape == (0, H)
    assert layer(**none, weights=None).shape == (0, K, H)


def test_values_that_are_not_finite(layer):
    clean = layer()
    x = layer.x.copy()
    x[2, 5] = np.nan
    y = layer(x=x)
    assert np.isnan(y[2]).all()
    assert np.array_equal(np.delete(y, 2, axis=0), np.delete(clean, 2, axis=0))
    weights = layer.weights.copy()
    weights[4, 0] = np.inf
    y = layer(weights=weights)
    assert np.array_equal(y[4], np.sign(layer(weights=None)[4, 0]) * np.float32(np.inf))
    assert np.array_equal(np.delete(y, 4, axis=0), np.delete(clean, 4, axis=0))


def unaligned(a):
    """The same elements, the first one at an odd address."""
    memory = np.empty(a.nbytes + 1, np.uint8)
    view = memory[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    assert view.ctypes.data % 2 == 1
    return view


def test_strided_and_unaligned_arrays(layer):
    expected = layer()
    wide = np.full((2 * TOKENS, 3 * H), np.nan, np.float32)
    wide[::2, ::3] = layer.x
    reversed_ids = np.ascontiguousarray(layer.ids[::-1, ::-1])
    strided = {"x": wide[::2, ::3], "ids": reversed_ids[::-1, ::-1], "weights": np.asfortranarray(layer.weights)}
    assert np.array_equal(layer(**strided), expected)
    weights = {
        name: gqmm.QuantizedWeights(
            *(unaligned(part) for part in (old.w, old.scales, old.biases)), bits=old.bits, group_size=old.group_size
        )
        for name, old in (("gate", layer.gate), ("up", layer.up), ("down", layer.down))
    }
    assert np.array_equal(layer(x=unaligned(layer.x), weights=unaligned(layer.weights), **weights), expected)


@pytest.mark.parametrize("library", ["torch", "jax.numpy", "mlx.core"])
def test_arrays_of_other_libraries(layer, library):
    xp = pytest.importorskip(library)
    as_array = getattr(xp, "from_numpy", None) or xp.array
    x, ids, weights = (as_array(a) for a in (layer.x, layer.ids.astype(np.int32), layer.weights))
    y = layer(x=x, ids=ids, weights=weights)
    assert isinstance(y, type(x))
    assert np.array_equal(np.asarray(y), layer())


def test_positional_arguments_end_with_down(layer):
    with pytest.raises(TypeError):
        gqmm.moe_ffn(layer.x, layer.ids, layer.weights, layer.gate, layer.up, layer.down, gqmm.SwiGLU())


# --- Rows that are sorted by expert ---------------------------------------------------------------------------------------


def test_grouped_products(rng, layer):
    ends = np.array([2, 2, 3, 5, 7, 7], np.int32)
    experts = np.repeat(np.arange(E), np.diff(ends, prepend=0))
    expected = gqmm.gather_qmm(layer.x[:, None], layer.gate, rhs_indices=experts)[:, 0]
    assert np.array_equal(gqmm.grouped_qmm(layer.x, layer.gate, ends), expected)
    assert np.array_equal(gqmm.grouped_qmm(layer.x, layer.gate, np.concatenate([[0], ends]).astype(np.int64)), expected)
    b = rng.standard_normal((E, H, 5), dtype=np.float32)
    dense = gqmm.gather_mm(layer.x[:, None], b, rhs_indices=experts)[:, 0]
    out = np.empty((TOKENS, 5), np.float32)
    assert gqmm.grouped_mm(layer.x, b, ends, out=out) is out
    assert np.array_equal(out, dense)
    fewer = np.minimum(ends, 5)
    with pytest.raises(ValueError, match="the last offset is 5 but x has 7 rows"):
        gqmm.grouped_mm(layer.x, b, fewer)
    some = gqmm.grouped_mm(layer.x, b, fewer, rows="zero")
    assert np.array_equal(some[:5], dense[:5])
    assert not some[5:].any()
    with pytest.raises(TypeError, match="weights: expected QuantizedWeights or PackedWeights"):
        gqmm.grouped_qmm(layer.x, b, ends)


def test_gradients_of_grouped_products(rng, layer):
    ends = np.array([2, 2, 3, 5, 7, 7], np.int32)
    experts = np.repeat(np.arange(E), np.diff(ends, prepend=0))
    dy = rng.standard_normal((TOKENS, I), dtype=np.float32)
    wrt = ("x", "scales", "biases")
    expected = gqmm.gather_qmm_vjp(dy[:, None], layer.x[:, None], layer.gate, rhs_indices=experts, wrt=wrt)
    actual = gqmm.grouped_qmm_vjp(dy, layer.x, layer.gate, ends, wrt=wrt)
    assert np.array_equal(actual["x"], expected["x"][:, 0])
    assert np.array_equal(actual["scales"], expected["scales"])
    assert np.array_equal(actual["biases"], expected["biases"])
    b = rng.standard_normal((E, H, I), dtype=np.float32)
    dense = gqmm.grouped_mm_vjp(dy, layer.x, b, ends)
    assert np.allclose(dense["x"], np.einsum("rn,rkn->rk", dy, b[experts]), rtol=1e-5, atol=1e-5)
    for expert in range(E):
        rows = experts == expert
        assert np.allclose(dense["b"][expert], layer.x[rows].T @ dy[rows], rtol=1e-5, atol=1e-5)


def test_missing_rows_of_gather_qmm(rng, layer):
    rhs = np.array([3, -1, 0, -5])
    x = layer.x[:4, None].copy()
    x[1] = np.nan
    y = gqmm.gather_qmm(x, layer.gate, rhs_indices=rhs, missing="zero")
    assert not y[[1, 3]].any()
    assert np.array_equal(y[[0, 2]], gqmm.gather_qmm(x[[0, 2]], layer.gate, rhs_indices=rhs[[0, 2]]))
    with pytest.raises(ValueError, match=r"rhs_indices\[1\] = -1 is out of range"):
        gqmm.gather_qmm(x, layer.gate, rhs_indices=rhs)
    dy = rng.standard_normal(y.shape, dtype=np.float32)
    gradients = gqmm.gather_qmm_vjp(dy, x, layer.gate, rhs_indices=rhs, missing="zero", wrt=("x", "scales"))
    some = gqmm.gather_qmm_vjp(dy[[0, 2]], x[[0, 2]], layer.gate, rhs_indices=rhs[[0, 2]], wrt=("x", "scales"))
    assert not gradients["x"][[1, 3]].any()
    assert np.array_equal(gradients["x"][[0, 2]], some["x"])
    assert np.array_equal(gradients["scales"], some["scales"])
