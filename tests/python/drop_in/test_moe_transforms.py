"""moe_ffn over arrays of MLX with all its arguments: bits, errors, gradients, tangents and batches."""

from __future__ import annotations

import dataclasses

import gqmm
import numpy as np
import pytest
from moe_problems import TOKENS, H, I, K, Problem

drop_in = pytest.importorskip("gqmm.mlx")
mlx_oracle = pytest.importorskip("mlx_oracle")
mx = pytest.importorskip("mlx.core")
pytestmark = pytest.mark.mlx

# Gradients are sums of at most a few hundred float32 products, three layers deep: some 300 · 2^-24 of their size.
TOLERANCE = 2e-5

# What a problem is made with. Each has negative ids, which are slots of zeros.
PROBLEMS = {
    "plain": {},
    "biases": {"biases": True},
    "slots": {"weighted": False},
    "dense": {"dense": True, "biases": True},
    "shared": {"shared": True},
    "shared, dense": {"shared": True, "dense": True},
    "on input": {"on_input": True, "biases": True},
    "on input, shared, interleaved": {"on_input": True, "shared": True, "order": "interleaved"},
    "not gated": {"activation": gqmm.ReLU2(), "shared": True},
    "clipped": {"activation": gqmm.SwiGLU(alpha=1.702, limit=0.75, bias=1), "shared": True},
}


@pytest.fixture
def problem(rng, request):
    changes = dict(PROBLEMS[request.param])
    return Problem(rng, changes.pop("activation", gqmm.SwiGLU()), **changes)


each_problem = pytest.mark.parametrize("problem", PROBLEMS, indirect=True)


def arrays_of(problem, dtype=np.float32):
    """All parameters of a problem, as arrays of MLX by name. Those of layers stay float32."""
    layers = {name + part for name, layer in problem.layers.items() for part in layer.parameters}
    return {
        name: mlx_oracle.to_mlx(value.astype(np.float32 if name in layers else dtype))
        for name, value in problem.parameters.items()
    }


def layer_of(problem, values, **changes):
    """moe_ffn of MLX for these parameters."""
    layers = {}
    for name, layer in problem.layers.items():
        if "" in layer.parameters:
            layers[name] = values[name]
        else:
            passed = layer.passed
            settings = {"group_size": passed.group_size, "bits": passed.bits}
            layers[name] = gqmm.QuantizedWeights(
                mx.array(passed.w), values[f"{name}.scales"], values[f"{name}.biases"], **settings
            )
    (x, ids, weights, *rest), keywords = problem.call_of(values, layers)
    keywords |= changes
    ids = keywords.pop("ids", mx.array(ids))
    return drop_in.moe_ffn(x, ids, weights, *rest, **keywords)


def assert_same_bits(ours, expected):
    assert ours.shape == expected.shape
    assert np.array_equal(mlx_oracle.to_numpy(ours), expected)


@each_problem
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_has_the_bits_of_gqmm(problem, dtype):
    arrays = {name: array.astype(dtype) for name, array in problem.arrays.items()}
    layers = {name: layer.passed for name, layer in problem.layers.items()}
    (x, *rest), keywords = problem.call_of(arrays, layers)
    expected = gqmm.moe_ffn(x, *rest, **keywords)
    values = arrays_of(problem, dtype)
    assert_same_bits(layer_of(problem, values), expected)
    assert_same_bits(mx.compile(lambda x: layer_of(problem, values | {"x": x}))(values["x"]), expected)


@each_problem
def test_gradients_are_those_of_differences(problem, rng):
    values = arrays_of(problem)
    dy = rng.standard_normal(problem.forward(problem.parameters).shape, dtype=np.float32)

    def layer(*arrays):
        return layer_of(problem, dict(zip(values, arrays, strict=True)))

    _, gradients = mx.vjp(layer, list(values.values()), [mx.array(dy)])
    of_all = {name: np.array(gradient) for name, gradient in zip(values, gradients, strict=True)}
    problem.check_gradients(of_all, dy, rng, TOLERANCE)
    # Each alone is the same, whatever else is computed.
    for i, name in enumerate(values):
        alone = mx.grad(lambda *a: (layer(*a) * mx.array(dy)).sum(), argnums=i)(*values.values())
        np.testing.assert_allclose(np.array(alone), of_all[name], rtol=1e-5, atol=1e-6 * np.abs(of_all[name]).max(), err_msg=name)


@each_problem
def test_tangents_are_those_of_differences(problem, rng):
    values = arrays_of(problem)
    tangents = {name: rng.standard_normal(value.shape) for name, value in problem.parameters.items()}
    (_,), (dy,) = mx.jvp(
        lambda *arrays: layer_of(problem, dict(zip(values, arrays, strict=True))),
        list(values.values()),
        [mx.array(tangent.astype(np.float32)) for tangent in tangents.values()],
    )
    step = 1e-7
    moved = [
        problem.forward({name: value + sign * step * tangents[name] for name, value in problem.parameters.items()})
        for sign in (1, -1)
    ]
    expected = (moved[0] - moved[1]) / (2 * step)
    np.testing.assert_allclose(np.array(dy), expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def moved(a, batch=3):
    """`batch` copies of an array, each a little different."""
    return mx.stack([mx.roll(a, i, 0) for i in range(batch)])


@each_problem
@pytest.mark.parametrize("what", ["tokens", "all"])
def test_batching_is_stacking(problem, what):
    """Over the arrays of tokens the bits stay. Over weights the layer becomes a graph of products."""
    values = arrays_of(problem)
    of_tokens = {"x", "topk_weights", "shared.scale"}
    names = [name for name in values if what == "all" or name in of_tokens]
    batched = [moved(values[name]) for name in names]
    ids = mx.stack([mx.array(problem.ids)] * 3)

    def layer(ids, *arrays):
        return layer_of(problem, values | dict(zip(names, arrays, strict=True)), ids=ids)

    each = mx.stack([layer(ids[i], *(a[i] for a in batched)) for i in range(3)])
    together = mx.vmap(layer)(ids, *batched)
    if what == "tokens":
        assert mx.array_equal(together, each)
        nested = mx.vmap(mx.vmap(layer))(mx.stack([ids, ids]), *(mx.stack([a, a[::-1]]) for a in batched))
        assert mx.array_equal(nested[0], each)
        assert mx.array_equal(nested[1][1], each[1])
    else:
        assert mx.abs(together - each).max().item() <= TOLERANCE * mx.abs(each).max().item()


@each_problem
def test_gradients_per_sample(problem, rng):
    values = arrays_of(problem)
    names = list(values)
    dy = mx.array(rng.standard_normal((TOKENS, H), dtype=np.float32))

    def gradients(x, *others):
        def loss(*arrays):
            return (layer_of(problem, dict(zip(names, arrays, strict=True))) * (dy if "topk_weights" in values else 1)).sum()

        return mx.grad(loss, argnums=list(range(len(names))))(x, *others)

    x, *others = values.values()
    several = moved(x)
    together = mx.vmap(gradients, in_axes=(0, *[None] * len(others)))(several, *others)
    for i in range(3):
        for name, ours, expected in zip(names, together, gradients(several[i], *others), strict=True):
            np.testing.assert_allclose(
                np.array(ours[i]), np.array(expected), rtol=0, atol=TOLERANCE * np.abs(np.array(expected)).max(), err_msg=name
            )


def test_second_derivatives(rng):
    """They are those of differences of the first ones, which are tested above."""
    problem = Problem(rng, gqmm.SwiGLU(), shared=True)
    values = arrays_of(problem)
    direction = mx.array(rng.standard_normal((TOKENS, H), dtype=np.float32))

    def gradient(x):
        return mx.grad(lambda x: (layer_of(problem, values | {"x": x}) ** 2).sum())(x)

    x = values["x"]
    ours = mx.grad(lambda x: (gradient(x) * direction).sum())(x)
    step = 1e-2 * direction  # the third derivative adds about step² to the error, and rounding 2^-24 / step
    expected = (gradient(x + step) - gradient(x - step)) / 2e-2
    assert mx.abs(ours - expected).max().item() <= 2e-3 * mx.abs(expected).max().item()


class TestSharedExperts:
    @pytest.mark.parametrize("leading", [(), (1,)], ids=str)
    @pytest.mark.parametrize("scale", [None, (), (1,)], ids=str)
    def test_shapes(self, rng, leading, scale):
        problem = Problem(rng, gqmm.SwiGLU(), dense=True)
        shared = [rng.standard_normal((*leading, *shape), dtype=np.float32) for shape in ((I, H), (I, H), (H, I))]
        bias = rng.standard_normal((*leading, I), dtype=np.float32)
        factor = None if scale is None else rng.random((TOKENS, *scale), dtype=np.float32)

        def experts(convert):
            return gqmm.SharedExperts(
                *map(convert, shared),
                gate_bias=convert(bias),
                activation=gqmm.GeGLU(),
                scale=factor if factor is None else convert(factor),
            )

        arguments, keywords = problem.arguments()
        expected = gqmm.moe_ffn(*arguments, **keywords, shared=experts(np.array))
        values = arrays_of(problem)
        assert_same_bits(layer_of(problem, values, shared=experts(mx.array)), expected)
        # The graph of products, which transforms are made of, has the same shapes.
        d_x = mx.grad(lambda x: (layer_of(problem, values | {"x": x}, shared=experts(mx.array)) ** 2).sum())(values["x"])
        assert mx.isfinite(d_x).all()
        _, (dy,) = mx.jvp(
            lambda x: layer_of(problem, values | {"x": x}, shared=experts(mx.array)), [values["x"]], [mx.ones_like(values["x"])]
        )
        assert dy.shape == (TOKENS, H)

    def test_packed_parameters_and_packed_copies(self, rng):
        problem = Problem(rng, gqmm.SwiGLU(), shared=True)
        values = arrays_of(problem)
        weights = {name: mx.array(layer.passed.w) for name, layer in problem.layers.items()}
        layers = {
            name: gqmm.QuantizedWeights(w, values[f"{name}.scales"], values[f"{name}.biases"], group_size=32, bits=4)
            for name, w in weights.items()
        }
        (x, ids, topk, *rest), keywords = problem.call_of(values, layers)
        expected = drop_in.moe_ffn(x, mx.array(ids), topk, *rest, **keywords)
        mx.eval(expected)
        with drop_in.install(pack=True):
            for _ in range(3):
                assert mx.array_equal(drop_in.moe_ffn(x, mx.array(ids), topk, *rest, **keywords), expected)
            assert drop_in.status().packed_arrays == len(layers)


class TestErrors:
    """Before anything is computed: each call raises, and nothing is evaluated."""

    @pytest.fixture
    def case(self, rng):
        problem = Problem(rng, gqmm.SwiGLU(), shared=True, dense=True)
        return problem, arrays_of(problem)

    def test_what_needs_weights(self, case):
        problem, values = case
        slots = {name: value for name, value in values.items() if name != "topk_weights"}
        with pytest.raises(ValueError, match=r"\[moe_ffn\] shared needs topk_weights"):
            layer_of(problem, slots)
        with pytest.raises(ValueError, match=r"\[moe_ffn\] router_weight_on_input = true needs topk_weights"):
            layer_of(problem, slots, shared=None, router_weight_on_input=True)

    def test_shapes_and_types(self, case):
        problem, values = case
        with pytest.raises(ValueError, match=r"\[moe_ffn\] shared\.up has shape \(32, 32\); it must be \(32, 64\)"):
            layer_of(problem, values | {"shared.up": values["shared.up"][:, :32]})
        with pytest.raises(ValueError, match=r"\[moe_ffn\] x has shape \(6, 64\) but shared\.scale has shape \(5, 1\)"):
            layer_of(problem, values | {"shared.scale": values["shared.scale"][:5]})
        with pytest.raises(ValueError, match=r"\[moe_ffn\] shared\.down_bias has type int32"):
            layer_of(problem, values | {"shared.down_bias": mx.zeros((H,), mx.int32)})
        with pytest.raises(ValueError, match=r"\[moe_ffn\] x has type int32"):
            layer_of(problem, values | {"x": values["x"].astype(mx.int32)})
        with pytest.raises(ValueError, match=r"\[moe_ffn\] topk_ids has type float32"):
            layer_of(problem, values, ids=mx.zeros((TOKENS, K)))

    def test_kinds(self, case):
        problem, values = case
        shared = gqmm.SharedExperts(values["shared.gate"], values["shared.up"], values["shared.down"])
        with pytest.raises(TypeError, match=r"\[moe_ffn\] shared: expected gqmm\.SharedExperts or None, got \("):
            layer_of(problem, values, shared=(1, 2, 3))
        for changes, message in (
            (
                {"gate": np.zeros((I, H), np.float32)},
                r"shared\.gate: expected gqmm\.QuantizedWeights or an mlx.core.array, got ndarray",
            ),
            ({"scale": 1.0}, r"shared\.scale: expected an mlx.core.array, got float"),
            ({"down_bias": "none"}, r"shared\.down_bias: expected an mlx.core.array, got str"),
            ({"activation": "silu"}, r"shared\.activation: expected an activation"),
        ):
            with pytest.raises(TypeError, match=message):
                layer_of(problem, values, shared=dataclasses.replace(shared, **changes))
        with pytest.raises(ValueError, match=r"\[moe_ffn\] shared\.up_bias is given but shared\.up is not"):
            layer_of(problem, values, shared=dataclasses.replace(shared, up=None, up_bias=mx.zeros((I,))))
