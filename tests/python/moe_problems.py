"""Calls of moe_ffn whose forward is known in float64, as a function of every parameter. Gradients are tested against it."""

from __future__ import annotations

import math

import gqmm
import numpy as np
import oracle

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
        if shared:
            shapes = {name: layer.dequantized(layer.parameters).shape[1:] for name, layer in self.layers.items()}
            self.layers |= {f"shared.{name}": Weights(rng, *shape, dense, ()) for name, shape in shapes.items()}
            parameters["shared.scale"] = rng.random((TOKENS, 1), dtype=np.float32)
            parameters["shared.down_bias"] = rng.standard_normal(H, dtype=np.float32)
        self.parameters = {name: array.astype(np.float64) for name, array in parameters.items()}
        for name, layer in self.layers.items():
            self.parameters |= {name + part: value for part, value in layer.parameters.items()}

    def arguments(self):
        return self.call_of(self.arrays, {name: layer.passed for name, layer in self.layers.items()})

    def call_of(self, arrays, layers):
        """The arguments of moe_ffn, positional and by name, for these arrays and layers of any library."""

        def block(prefix):
            return [layers.get(prefix + name) for name in ("gate", "up", "down")]

        keywords = {name: array for name, array in arrays.items() if name.endswith("_bias") and "." not in name}
        keywords |= {"activation": self.activation, "missing": "zero", "router_weight_on_input": self.on_input}
        if self.order:
            keywords["gate_up_order"] = self.order
        if "shared.gate" in self.layers:
            scale, down_bias = arrays["shared.scale"], arrays["shared.down_bias"]
            keywords["shared"] = gqmm.SharedExperts(*block("shared."), scale=scale, down_bias=down_bias)
        return (arrays["x"], self.ids, arrays.get("topk_weights"), *block("")), keywords

    def product(self, name, rows, values):
        layer = self.layers[name]
        matrices = layer.dequantized({part: values[name + part] for part in layer.parameters})
        bias = values.get(f"{name}_bias")
        if name.startswith("shared."):
            return rows @ matrices.T + (0 if bias is None else bias)
        y = np.einsum("tkh,tknh->tkn", rows, matrices[self.ids])
        return y if bias is None else y + bias[self.ids]

    def feed_forward(self, prefix, rows, values):
        gate = self.product(prefix + "gate", rows, values)
        up = None
        if "up" in self.layers:
            up = self.product(prefix + "up", rows, values)
        elif self.gated:
            leading = gate.shape[:-1]
            halves = (
                gate.reshape(*leading, I, 2) if self.order == "interleaved" else gate.reshape(*leading, 2, I).swapaxes(-1, -2)
            )
            gate, up = (halves[..., 1], halves[..., 0]) if self.order == "up_gate" else (halves[..., 0], halves[..., 1])
        return self.product(prefix + "down", activated(self.activation, gate, up), values)

    def forward(self, values):
        x = np.repeat(values["x"][:, None], K, axis=1)
        weights = values.get("topk_weights", np.ones((TOKENS, K)))
        slots = self.feed_forward("", x * weights[..., None] if self.on_input else x, values)
        slots = np.where(self.ids[..., None] >= 0, slots, 0)
        if "topk_weights" not in values:
            return slots
        y = slots.sum(1) if self.on_input else np.einsum("tk,tkh->th", weights, slots)
        if "shared.gate" in self.layers:
            y = y + values["shared.scale"] * self.feed_forward("shared.", values["x"], values)
        return y

    def check_gradients(self, gradients, dy, rng, tolerance):
        """Compare gradients, NumPy arrays by name, with differences of the forward along a random direction."""
        for name, gradient in gradients.items():
            value = self.parameters[name]
            assert gradient.shape == value.shape, name
            direction = rng.standard_normal(value.shape)
            step = 1e-7  # so small that few values cross a clip
            moved = [self.forward(self.parameters | {name: value + sign * step * direction}) for sign in (1, -1)]
            expected = ((moved[0] - moved[1]) * dy).sum() / (2 * step)
            parts = gradient.astype(np.float64) * direction
            assert abs(parts.sum() - expected) <= tolerance * np.abs(parts).sum(), name
