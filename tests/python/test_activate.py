"""activate and moe_combine: float64 values within their bounds, arrays of every library, and what they refuse."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle

import gqmm
import numpy as np
import oracle
import pytest

ACTIVATIONS = [
    gqmm.SwiGLU(),
    gqmm.SwiGLU(alpha=1.702, limit=7, bias=1),
    gqmm.GeGLU(),
    gqmm.GeGLU("tanh"),
    gqmm.SiTU(4),
    gqmm.SiTU(beta=2, linear_beta=10),
    gqmm.SwiGLUStep(3),
    gqmm.SiLU(),
    gqmm.GELU(),
    gqmm.GELU("tanh"),
    gqmm.ReLU2(),
]
GATED = (gqmm.SwiGLU, gqmm.GeGLU, gqmm.SiTU, gqmm.SwiGLUStep)


def reference(activation, g, u):
    """The formulas of the docstrings, in float64, with constants in float32; and c of docs/reference/numerics.md."""

    def constant(value):
        return float(np.float32(value))

    match activation:
        case gqmm.SwiGLU(alpha, limit, bias):
            limit = math.inf if limit is None else constant(limit)
            g, u, alpha = np.minimum(g, limit), np.clip(u, -limit, limit), constant(alpha)
            return (u + constant(bias)) * g * oracle.sigmoid(alpha * g), 8 + np.abs(alpha * g) * oracle.sigmoid(-alpha * g)
        case gqmm.GeGLU(approximate) | gqmm.GELU(approximate):
            z = math.sqrt(8 / math.pi) * (g + 0.044715 * g**3)
            c = 15 if approximate == "none" else 7 + 4 * np.abs(z) * oracle.sigmoid(-z)
            return oracle.gelu(g, approximate) * (1 if u is None else u), c
        case gqmm.SiTU(beta, linear_beta):
            u = u if linear_beta is None else constant(linear_beta) * np.tanh(u / constant(linear_beta))
            return constant(beta) * np.tanh(g / constant(beta)) * oracle.sigmoid(g) * u, 21
        case gqmm.SwiGLUStep(limit):
            return np.minimum(g * oracle.sigmoid(g), constant(limit)) * np.clip(u, -constant(limit), constant(limit)), 7
        case gqmm.SiLU():
            return g * oracle.sigmoid(g), 6
        case gqmm.ReLU2():
            return np.maximum(g, 0) ** 2, 1
    raise AssertionError(activation)


@pytest.mark.parametrize("dtype", oracle.FLOATS, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_values_are_within_the_bound(rng, activation, dtype):
    gate = (rng.standard_normal((7, 301)) * 4).astype(dtype)
    up = rng.standard_normal((7, 301)).astype(dtype) if isinstance(activation, GATED) else None
    h = gqmm.activate(gate, up, activation)
    assert (type(h), h.shape, h.dtype) == (np.ndarray, gate.shape, dtype)
    ref, c = reference(activation, gate.astype(np.float64), None if up is None else up.astype(np.float64))
    unit = 0 if dtype == oracle.float32 else oracle.UNIT_ROUNDOFF[dtype]
    # The last term: 1 + tanh and 1 + erf cancel in float64, too.
    bound = unit * np.abs(ref) + (1 + unit) * c * 2.0**-24 * np.abs(ref) + oracle.SMALLEST_SUBNORMAL[dtype] + 1e-14
    error = np.abs(h.astype(np.float64) - ref)
    worst = np.unravel_index(np.argmax(error / bound), error.shape)
    assert (error <= bound).all(), (gate[worst], up if up is None else up[worst], h[worst], ref[worst], bound[worst])


def test_any_strides_and_threads_give_the_same_bits(rng):
    both = rng.standard_normal((3, 400, 2 * 96)).astype(oracle.bfloat16)
    gate, up = both[..., :96], both[..., 96:]
    h = gqmm.activate(gate.copy(), up.copy(), gqmm.SwiGLU())
    for threads in (1, 2, 5):
        assert oracle.same_bits(gqmm.activate(gate, up, gqmm.SwiGLU(), stream=gqmm.Stream(threads=threads)), h)
    interleaved = np.stack([gate, up], axis=-1)
    assert oracle.same_bits(gqmm.activate(interleaved[..., 0], interleaved[..., 1], gqmm.SwiGLU()), h)
    assert oracle.same_bits(gqmm.activate(gate.T, up.T, gqmm.SwiGLU()), np.ascontiguousarray(h.T))
    assert oracle.same_bits(gqmm.activate(gate[:, ::-2, ::-1], up[:, ::-2, ::-1], gqmm.SwiGLU()), h[:, ::-2, ::-1].copy())


def test_out_takes_the_result(rng):
    gate, up = rng.standard_normal((2, 5, 33), dtype=np.float32)
    out = np.empty_like(gate)
    assert gqmm.activate(gate, up, gqmm.SwiGLU(), out=out) is out
    assert oracle.same_bits(out, gqmm.activate(gate, up, gqmm.SwiGLU()))
    with pytest.raises(ValueError, match=r"\[activate\] out overlaps the memory of up"):
        gqmm.activate(gate, up, gqmm.SwiGLU(), out=up)
    with pytest.raises(ValueError, match="out is float16"):
        gqmm.activate(gate, up, gqmm.SwiGLU(), out=np.empty((5, 33), np.float16))


def test_nan_passes_and_infinities_have_limits():
    gate = np.array([np.nan, -np.inf, np.inf, -3e38, 3e38], np.float32)
    for activation in ACTIVATIONS:
        h = gqmm.activate(gate, np.ones(5, np.float32) if isinstance(activation, GATED) else None, activation)
        assert np.isnan(h[0])
        assert not np.isnan(h[1:]).any()
        assert h[1] == h[3] == 0
        if isinstance(activation, GATED):
            assert np.isnan(gqmm.activate(np.ones(1, np.float32), gate[:1], activation)).all()


def test_up_goes_with_the_gate():
    x = np.ones(3, np.float32)
    for activation in ACTIVATIONS:
        with pytest.raises(ValueError, match=r"\[activate\] up .*" + type(activation).__name__):
            gqmm.activate(x, None if isinstance(activation, GATED) else x, activation)
    with pytest.raises(ValueError, match="one shape and one type"):
        gqmm.activate(x, np.ones(1, np.float32), gqmm.SwiGLU())
    with pytest.raises(ValueError, match="one shape and one type"):
        gqmm.activate(x, np.ones(3, np.float16), gqmm.SwiGLU())
    with pytest.raises(ValueError, match="float64"):
        gqmm.activate(np.ones(3), None, gqmm.SiLU())
    with pytest.raises(TypeError, match="'silu'"):
        gqmm.activate(x, None, "silu")
    with pytest.raises(TypeError, match=r"gqmm\.SwiGLU"):
        gqmm.activate(x, x, gqmm.SwiGLU)
    with pytest.raises(TypeError, match="gate"):
        gqmm.activate([1.0], None, gqmm.SiLU())


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda: gqmm.SwiGLU(alpha=math.nan), "alpha = nan"),
        (lambda: gqmm.SwiGLU(alpha=0), "alpha = 0"),
        (lambda: gqmm.SwiGLU(limit=-7), "limit = -7"),
        (lambda: gqmm.SwiGLU(limit=1e300), "limit = inf"),
        (lambda: gqmm.SwiGLU(bias=-math.inf), "bias = -inf"),
        (lambda: gqmm.SiTU(0), "beta = 0"),
        (lambda: gqmm.SiTU(1, linear_beta=math.nan), "linear_beta = nan"),
        (lambda: gqmm.SwiGLUStep(-1), "limit = -1"),
        (lambda: gqmm.GeGLU("fast"), 'approximate = "fast"'),
        (lambda: gqmm.GELU("Tanh"), 'approximate = "Tanh"'),
    ],
)
def test_wrong_constants_are_errors_with_the_value_and_a_remedy(make, value):
    with pytest.raises(ValueError, match=value) as error:
        make()
    assert ";" in str(error.value)


def test_constants_of_a_wrong_kind_are_type_errors():
    for make in (
        lambda: gqmm.SwiGLU(alpha="1"),
        lambda: gqmm.SwiGLU(alpha=None),
        lambda: gqmm.SwiGLU(limit=True),
        lambda: gqmm.SiTU(None),
        lambda: gqmm.GELU(None),
        lambda: gqmm.GELU(1),
    ):
        with pytest.raises(TypeError, match=r"expected a (number|string)"):
            make()


def test_activations_are_frozen_values():
    activation = gqmm.SwiGLU(alpha=1.702, limit=np.float32(7), bias=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        activation.limit = 8
    assert activation == gqmm.SwiGLU(1.702, 7, 1)
    assert hash(activation) == hash(gqmm.SwiGLU(1.702, 7, 1))
    assert activation != gqmm.SwiGLU()
    assert pickle.loads(pickle.dumps(activation)) == copy.deepcopy(activation) == activation
    assert repr(gqmm.GeGLU()) == "GeGLU(approximate='none')"
    with pytest.raises(ValueError, match="limit"):
        dataclasses.replace(activation, limit=-1)


def combined(slots, weights):
    """The sum in float64, and the bound of docs/reference/numerics.md."""
    terms = weights.astype(np.float64)[..., None] * slots.astype(np.float64)
    k = slots.shape[-2]
    unit = oracle.UNIT_ROUNDOFF[slots.dtype]
    sums = terms.sum(-2)
    bound = (
        unit * np.abs(sums) + (1 + unit) * 1.001 * k * 2.0**-24 * np.abs(terms).sum(-2) + oracle.SMALLEST_SUBNORMAL[slots.dtype]
    )
    return sums, bound


@pytest.mark.parametrize("dtype", oracle.FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(4, 8, 129), (2, 3, 1, 40), (16, 5), (3, 0, 4), (0, 2, 3)], ids=str)
def test_combine_is_within_the_bound(rng, dtype, shape):
    slots = rng.standard_normal(shape).astype(dtype)
    for weight_dtype in oracle.FLOATS:
        weights = rng.standard_normal(shape[:-1]).astype(weight_dtype)
        y = gqmm.moe_combine(slots, weights)
        assert (type(y), y.shape, y.dtype) == (np.ndarray, (*shape[:-2], shape[-1]), dtype)
        ref, bound = combined(slots, weights)
        assert (np.abs(y.astype(np.float64) - ref) <= bound).all()


def test_combine_at_any_strides_and_threads_gives_the_same_bits(rng):
    slots = rng.standard_normal((64, 8, 1000)).astype(oracle.bfloat16)
    weights = rng.standard_normal((64, 8), np.float32)
    y = gqmm.moe_combine(slots, weights)
    for threads in (1, 2, 5):
        stream = gqmm.Stream(threads=threads)
        turned = np.ascontiguousarray(slots.T).T
        assert oracle.same_bits(gqmm.moe_combine(turned, np.asfortranarray(weights), stream=stream), y)
    backwards = gqmm.moe_combine(slots[::-1, ::-1].copy()[::-1, ::-1], weights)
    assert oracle.same_bits(backwards, y)


def test_out_receives_the_result(rng):
    slots, weights = rng.standard_normal((4, 2, 6), np.float32), rng.standard_normal((4, 2), np.float32)
    for dtype in oracle.FLOATS:
        out = np.full((4, 6), np.nan, dtype)
        assert gqmm.moe_combine(slots.astype(dtype), weights, out=out) is out
        assert oracle.same_bits(out, gqmm.moe_combine(slots.astype(dtype), weights))
    with pytest.raises(ValueError, match="allocate it so"):
        gqmm.moe_combine(slots, weights, out=np.empty((4, 5), np.float32))
    with pytest.raises(ValueError, match="not row-major"):
        gqmm.moe_combine(slots, weights, out=np.empty((6, 4), np.float32).T)
    with pytest.raises(ValueError, match="overlaps the memory of slots"):
        gqmm.moe_combine(slots, weights, out=slots[:2].reshape(4, 6))
    read_only = np.empty((4, 6), np.float32)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        gqmm.moe_combine(slots, weights, out=read_only)
    with pytest.raises(TypeError, match="out: expected a NumPy array or a PyTorch tensor"):
        gqmm.moe_combine(slots, weights, out=bytearray(96))


def test_combine_refuses_what_does_not_fit():
    slots = np.ones((4, 2, 6), np.float32)
    with pytest.raises(ValueError, match=r"it must be \(4, 2\)"):
        gqmm.moe_combine(slots, np.ones((4, 1), np.float32))
    with pytest.raises(ValueError, match="two dimensions"):
        gqmm.moe_combine(slots[0, 0], np.ones((), np.float32))
    with pytest.raises(ValueError, match="int64"):
        gqmm.moe_combine(slots, np.ones((4, 2), np.int64))
    with pytest.raises(TypeError, match="topk_weights"):
        gqmm.moe_combine(slots, None)


def libraries():
    """Ways to make an array of another library from one of NumPy, and back."""

    def torch_arrays():
        torch = pytest.importorskip("torch")
        return torch.from_numpy, lambda t: t.numpy(), torch.Tensor

    def jax_arrays():
        jax = pytest.importorskip("jax")
        return jax.numpy.asarray, np.asarray, jax.Array

    def mlx_arrays():
        mx = pytest.importorskip("mlx.core")
        return mx.array, np.array, mx.array

    return [torch_arrays, jax_arrays, mlx_arrays]


@pytest.mark.parametrize("library", libraries(), ids=lambda make: make.__name__)
def test_arrays_of_other_libraries_give_the_bits_of_numpy(rng, library):
    to_library, to_numpy, array_type = library()
    gate, up = rng.standard_normal((2, 5, 33), np.float32)
    h = gqmm.activate(to_library(gate), to_library(up), gqmm.GeGLU())
    assert isinstance(h, array_type)
    assert oracle.same_bits(to_numpy(h), gqmm.activate(gate, up, gqmm.GeGLU()))
    slots, weights = rng.standard_normal((4, 3, 10), np.float32), rng.standard_normal((4, 3), np.float32)
    y = gqmm.moe_combine(to_library(slots), to_library(weights))
    assert isinstance(y, array_type)
    assert oracle.same_bits(to_numpy(y), gqmm.moe_combine(slots, weights))
    out = to_library(np.zeros((4, 10), np.float32))
    if array_type.__module__.startswith("torch"):
        assert gqmm.moe_combine(slots, weights, out=out) is out
        assert oracle.same_bits(to_numpy(out), to_numpy(y))
    else:
        with pytest.raises(TypeError, match="out"):
            gqmm.moe_combine(slots, weights, out=out)
