"""moe_ffn_vjp against differences of a float64 forward, whose weights are the dequantized ones."""

from __future__ import annotations

import math

import gqmm
import numpy as np
import oracle
import pytest

E, H, I, TOKENS, K, GROUP = 4, 64, 32, 6, 3, 32  # noqa: E741


def activated(activation, g, u):
    """The activation in float64, as the docstrings of the classes have it."""
    match activation:
        case gqmm.SwiGLU(alpha, limit, bias):
            limit = math.inf if limit is None else limit
            g, u = np.minimum(g, limit), np.clip(u, -limit, limit)
            return (u + bias) * g * oracle.sigmoid(alpha * g)
        case gqmm.GeGLU(approximate):
            return oracle.gelu(g, approximate) * u
        case gqmm.SiTU(beta, linear_beta):
            u = u if linear_beta is None else linear_beta * np.tanh(u / linear_beta)
            return beta * np.tanh(g / beta) * oracle.sigmoid(g) * u
        case gqmm.SwiGLUStep(limit):
            return np.minimum(g * oracle.sigmoid(g), limit) * np.clip(u, -limit, limit)
        case gqmm.SiLU():
            return g * oracle.sigmoid(g)
        case gqmm.GELU(approximate):
            return oracle.gelu(g, approximate)
    return np.maximum(g, 0) ** 2


class Weights:
    """A layer of experts: quantized, with its parameters in float64, or dense."""

    def __init__(self, rng, outputs, inputs, dense, leading=(E,)):
        matrix = rng.standard_normal((*leading, outputs, inputs), dtype=np.float32) / np.float32(math.sqrt(inputs))
        if dense:
            self.passed, self.parameters = matrix, {"": matrix.astype(np.float64)}
            return
        w, scales, biases = gqmm.quantize(matrix, group_size=GROUP, bits=4)
        self.passed = gqmm.QuantizedWeights(w, scales, biases, group_size=GROUP, bits=4)
        ones, zeros = np.ones_like(scales), np.zeros_like(scales)
        self.codes = gqmm.dequantize(w, ones, zeros, group_size=GROUP, bits=4).astype(np.float64)
        self.parameters = {".scales": scales.astype(np.float64), ".biases": biases.astype(np.float64)}

    def dequantized(self, parameters):
        if "" in parameters:
            return parameters[""]
        scales, biases = (np.repeat(parameters[name], GROUP, axis=-1) for name in (".scales", ".biases"))
        return scales * self.codes + biases


class Problem:
    """A call of moe_ffn, and its forward in float64 as a function of all parameters by name."""

    def __init__(self, rng, activation, *, order=None, dense=False, biases=False, weighted=True, shared=False, on_input=False):
        gated = isinstance(activation, (gqmm.SwiGLU, gqmm.GeGLU, gqmm.SiTU, gqmm.SwiGLUStep))
        self.activation, self.order, self.gated, self.on_input = activation, order, gated, on_input
        self.ids = rng.integers(0, E, (TOKENS, K))
        self.ids[1] = self.ids[0, 0]  # one expert in all slots
        self.ids[2, 1] = -1
        outputs = 2 * I if gated and order else I
        self.layers = {"gate": Weights(rng, outputs, H, dense), "down": Weights(rng, H, I, dense)}
        if gated and not order:
            self.layers["up"] = Weights(rng, I, H, dense)
        parameters = {"x": rng.standard_normal((TOKENS, H), dtype=np.float32)}
        if weighted:
            parameters["topk_weights"] = rng.random((TOKENS, K), dtype=np.float32)
        if biases:
            for name, layer in self.layers.items():
                n = layer.dequantized(layer.parameters).shape[1]
                parameters[f"{name}_bias"] = rng.standard_normal((E, n), dtype=np.float32)
        self.arrays = parameters
        self.shared = [Weights(rng, *shape, True, ()) for shape in ((I, H), (I, H), (H, I))] if shared else None
        if self.shared and (order or not gated):
            self.shared = None
        self.scale = rng.random((TOKENS, 1), dtype=np.float32)
        self.parameters = {name: array.astype(np.float64) for name, array in parameters.items()}
        for name, layer in self.layers.items():
            self.parameters |= {name + part: value for part, value in layer.parameters.items()}

    def arguments(self):
        layers = [self.layers[name].passed if name in self.layers else None for name in ("gate", "up", "down")]
        keywords = {name: array for name, array in self.arrays.items() if name.endswith("_bias")}
        keywords |= {"activation": self.activation, "missing": "zero", "router_weight_on_input": self.on_input}
        if self.order:
            keywords["gate_up_order"] = self.order
        if self.shared:
            keywords["shared"] = gqmm.SharedExperts(*(w.passed for w in self.shared), scale=self.scale)
        return (self.arrays["x"], self.ids, self.arrays.get("topk_weights"), *layers), keywords

    def product(self, name, rows, values):
        layer = self.layers[name]
        parameters = {part: values[name + part] for part in layer.parameters}
        y = np.einsum("tkh,tknh->tkn", rows, layer.dequantized(parameters)[self.ids])
        bias = values.get(f"{name}_bias")
        return y if bias is None else y + bias[self.ids]

    def forward(self, values):
        x = np.repeat(values["x"][:, None], K, axis=1)
        weights = values.get("topk_weights", np.ones((TOKENS, K)))
        gate = self.product("gate", x * weights[..., None] if self.on_input else x, values)
        up = None
        if "up" in self.layers:
            up = self.product("up", x * weights[..., None] if self.on_input else x, values)
        elif self.gated:
            halves = (
                gate.reshape(TOKENS, K, I, 2) if self.order == "interleaved" else gate.reshape(TOKENS, K, 2, I).swapaxes(2, 3)
            )
            gate, up = (halves[..., 1], halves[..., 0]) if self.order == "up_gate" else (halves[..., 0], halves[..., 1])
        slots = self.product("down", activated(self.activation, gate, up), values)
        slots = np.where(self.ids[..., None] >= 0, slots, 0)
        if "topk_weights" not in values:
            return slots
        y = slots.sum(1) if self.on_input else np.einsum("tk,tkh->th", weights, slots)
        if self.shared:
            gate, up, down = (w.parameters[""] for w in self.shared)
            y = y + self.scale * (activated(self.activation, values["x"] @ gate.T, values["x"] @ up.T) @ down.T)
        return y


def check(problem, rng, dtype=np.float32, tolerance=2e-5):
    (x, ids, weights, *layers), keywords = problem.arguments()
    names = tuple(problem.parameters)
    dy = rng.standard_normal(problem.forward(problem.parameters).shape, dtype=np.float32)
    gradients = gqmm.moe_ffn_vjp(dy, x.astype(dtype), ids, weights, *layers, **keywords, wrt=names)
    assert tuple(gradients) == names
    for name in names:
        value = problem.parameters[name]
        assert gradients[name].shape == value.shape, name
        direction = rng.standard_normal(value.shape)
        step = 1e-7  # so small that few values cross a clip
        moved = [problem.forward(problem.parameters | {name: value + sign * step * direction}) for sign in (1, -1)]
        expected = ((moved[0] - moved[1]) * dy).sum() / (2 * step)
        size = np.abs(gradients[name].astype(np.float64) * direction).sum()
        assert abs((gradients[name].astype(np.float64) * direction).sum() - expected) <= tolerance * size, name


ACTIVATIONS = [
    gqmm.SwiGLU(),
    gqmm.SwiGLU(alpha=1.702, limit=0.75, bias=1),
    gqmm.GeGLU(),
    gqmm.GeGLU("tanh"),
    gqmm.SiTU(0.7),
    gqmm.SiTU(2, 0.5),
    gqmm.SwiGLUStep(0.5),
    gqmm.SiLU(),
    gqmm.GELU(),
    gqmm.GELU("tanh"),
    gqmm.ReLU2(),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
@pytest.mark.parametrize("dense", [False, True])
def test_activations(rng, activation, dense):
    check(Problem(rng, activation, dense=dense, biases=True), rng)


@pytest.mark.parametrize("order", ["gate_up", "up_gate", "interleaved"])
@pytest.mark.parametrize("dense", [False, True])
def test_gate_and_up_in_one_layer(rng, order, dense):
    check(Problem(rng, gqmm.SwiGLU(limit=1.5), order=order, dense=dense, biases=True), rng)


def test_without_weights_and_with_shared_experts_and_with_weights_on_the_input(rng):
    check(Problem(rng, gqmm.SwiGLU(), weighted=False), rng)
    check(Problem(rng, gqmm.SwiGLU(), shared=True), rng)
    check(Problem(rng, gqmm.SwiGLU(), on_input=True), rng)


def test_half_types(rng):
    problem = Problem(rng, gqmm.SwiGLU())
    problem.parameters["x"] = problem.arrays["x"].astype(np.float16).astype(np.float64)
    check(problem, rng, np.float16, tolerance=2e-4)


# The bits do not depend on the other tokens, nor on the threads.
def test_bits_of_the_gradient_of_x(rng):
    problem = Problem(rng, gqmm.SwiGLU(), biases=True)
    (x, ids, weights, *layers), keywords = problem.arguments()
    dy = rng.standard_normal((TOKENS, H), dtype=np.float32)
    expected = gqmm.moe_ffn_vjp(dy, x, ids, weights, *layers, **keywords)["x"]
    for threads in (2, 5):
        stream = gqmm.Stream(threads=threads)
        assert np.array_equal(gqmm.moe_ffn_vjp(dy, x, ids, weights, *layers, **keywords, stream=stream)["x"], expected)
    alone = gqmm.moe_ffn_vjp(dy[3:4], x[3:4], ids[3:4], weights[3:4], *layers, **keywords)["x"]
    assert np.array_equal(alone, expected[3:4])
    packed = [gqmm.pack(layer) for layer in layers]
    assert np.array_equal(gqmm.moe_ffn_vjp(dy, x, ids, weights, *packed, **keywords)["x"], expected)


# What is not wanted is not computed, and changes nothing.
@pytest.mark.parametrize("on_input", [False, True])
def test_each_gradient_alone(rng, on_input):
    problem = Problem(rng, gqmm.SwiGLU(), biases=True, on_input=on_input)
    (x, ids, weights, *layers), keywords = problem.arguments()
    dy = rng.standard_normal((TOKENS, H), dtype=np.float32)
    names = tuple(problem.parameters)
    expected = gqmm.moe_ffn_vjp(dy, x, ids, weights, *layers, **keywords, wrt=names)
    for name in names:
        alone = gqmm.moe_ffn_vjp(dy, x, ids, weights, *layers, **keywords, wrt=(name,))
        assert list(alone) == [name]
        assert np.array_equal(alone[name], expected[name]), name


def test_experts_without_slots_have_gradients_of_zero(rng):
    problem = Problem(rng, gqmm.SwiGLU(), biases=True)
    problem.ids[:] = -1
    (x, ids, weights, *layers), keywords = problem.arguments()
    names = tuple(problem.parameters)
    for some in (layers, [gqmm.pack(layer) for layer in layers]):
        gradients = gqmm.moe_ffn_vjp(np.ones((TOKENS, H), np.float32), x, ids, weights, *some, **keywords, wrt=names)
        for name in names:
            assert gradients[name].shape == problem.parameters[name].shape
            assert not gradients[name].any()


def test_errors(rng):
    problem = Problem(rng, gqmm.SwiGLU())
    (x, ids, weights, *layers), keywords = problem.arguments()
    dy = np.ones((TOKENS, H), np.float32)

    def refused(match, dy=dy, weights=weights, **changes):
        with pytest.raises(ValueError, match=match):
            gqmm.moe_ffn_vjp(dy, x, ids, weights, *layers, **(keywords | changes))

    refused("wrt is empty", wrt=())
    refused("wrt has 'w', of which there is no gradient", wrt=("w",))
    refused("gate but it is quantized; ask for gate.scales", wrt=("gate",))
    refused("wrt has gate_bias but it is not given", wrt=("gate_bias",))
    refused("wrt has topk_weights but they are not given", np.ones((TOKENS, K, H), np.float32), None, wrt=("topk_weights",))
    refused(r"dy has shape \(6, 32\) but", dy=np.ones((TOKENS, 32), np.float32))
    refused(r"\[moe_ffn_vjp\] topk_ids\[2, 1\] = -1 is out of range", missing="error")
    layers[0] = np.zeros((E, I, H), np.float32)
    refused("gate has no gradient of scales or biases, since it is dense", wrt=("gate.scales",))
