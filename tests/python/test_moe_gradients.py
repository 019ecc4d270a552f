"""moe_ffn_vjp against differences of a float64 forward, whose weights are the dequantized ones."""

from __future__ import annotations

import gqmm
import numpy as np
import pytest
from moe_problems import TOKENS, E, H, I, K, Problem


def check(problem, rng, dtype=np.float32, tolerance=2e-5):
    (x, ids, weights, *layers), keywords = problem.arguments()
    names = tuple(name for name in problem.parameters if not name.startswith("shared."))  # those have none here
    dy = rng.standard_normal(problem.forward(problem.parameters).shape, dtype=np.float32)
    gradients = gqmm.moe_ffn_vjp(dy, x.astype(dtype), ids, weights, *layers, **keywords, wrt=names)
    assert tuple(gradients) == names
    problem.check_gradients(gradients, dy, rng, tolerance)


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
    check(Problem(rng, gqmm.SwiGLU(), shared=True, order="interleaved", on_input=True), rng)
    check(Problem(rng, gqmm.ReLU2(), shared=True, dense=True), rng)
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
