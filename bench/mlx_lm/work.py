"""How much a case must compute and read at least: the work that is compared with the limits of the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear

from .model import RandomModel, Shape


@dataclass(frozen=True)
class Case:
    """A call: a prompt of some tokens, or a token for each of some requests after so many tokens in the cache."""

    job: str  # prompt, decode
    tokens: int
    requests: int = 1

    @property
    def tokens_of_call(self) -> int:
        return self.tokens if self.job == "prompt" else self.requests


def nbytes(module: Any) -> int:
    return sum(array.nbytes for _, array in tree_flatten(module.parameters()))


def visible_pairs(first: int, count: int, window: int) -> int:
    """Count the pairs of a query and a key that it sees, for queries at positions first, …, first + count - 1."""
    return sum(min(position + 1, window or position + 1) for position in range(first, first + count))


def windows(shape: Shape) -> list[int]:
    """List each layer's window. Every second layer of a model with windows has one, the first layer among them."""
    return [shape.window if i % 2 == 0 else 0 for i in range(shape.layers)]


def experts_hit(shape: Shape, tokens: int) -> float:
    """Return the number of experts of a layer that some tokens hit on average, if each chooses at random."""
    return shape.experts * (1 - (1 - shape.top / shape.experts) ** tokens)


def products_of(module: Any, top: int) -> int:
    """Count the multiply-adds of a token in the products of a module. It uses `top` of the experts."""
    total = 0
    for _, layer in module.named_modules():
        if isinstance(layer, (nn.QuantizedLinear, QuantizedSwitchLinear)):
            rows, columns = layer.scales.shape[-2], layer.scales.shape[-1] * layer.group_size
            total += rows * columns * (top if isinstance(layer, QuantizedSwitchLinear) else 1)
    return total


def work_of(model: RandomModel, case: Case) -> dict[str, float]:
    """Count a call's operations, of products and of attention, and the bytes that it reads: weights, cache and states.

    A multiply-add counts as two operations. An element of a state needs four for a token, or three in Mamba-2. mlx-lm evaluates
    only the caches of a prompt, so of the last layer all tokens but one need the keys and values alone.
    """
    shape, layers = model.shape, model.layers
    linear = shape.linear
    T = case.tokens_of_call
    full = 1 if case.job == "prompt" else T  # the tokens that need the last layer
    keys_and_values = 2 * shape.hidden * shape.kv_heads * shape.head_dim
    of_layers = [sum(products_of(block, shape.top) for block in layer) for layer in layers]
    products = 2.0 * (T * sum(of_layers[:-1]) + full * of_layers[-1] + (T - full) * keys_and_values)
    products += 2.0 * full * shape.hidden * shape.vocabulary

    state = linear.value_heads * linear.value_dim * linear.key_dim
    channels = 2 * linear.key_heads * linear.key_dim + linear.value_heads * linear.value_dim
    row = 2 * shape.kv_heads * shape.head_dim * model.dtype.size
    attention, cached = 0.0, 0.0
    for i, window in enumerate(windows(shape)):
        if linear.holds(i):
            attention += (6.0 if shape.family == "nemotron_h" else 8.0) * T * state
            cached += 4 * state + (linear.kernel - 1) * channels * model.dtype.size
            continue
        if case.job == "decode":
            pairs = T * visible_pairs(case.tokens, 1, window)
        else:
            last = i + 1 == shape.layers
            pairs = visible_pairs(T - 1 if last else 0, 1 if last else T, window)
        attention += 4.0 * shape.heads * shape.head_dim * pairs
        cached += row * min(case.tokens, window or case.tokens)

    of_experts = 0 if model.experts is None else nbytes(model.experts)
    read = sum(nbytes(block) for layer in layers for block in layer) - shape.layers * of_experts + nbytes(model.model.lm_head)
    if of_experts > 0:
        read += (shape.layers - 1) * of_experts * experts_hit(shape, T) / shape.experts
        read += of_experts * experts_hit(shape, full) / shape.experts
    return {
        "products": products,
        "attention": attention,
        "weight_bytes": float(read),
        "cache_bytes": float(case.requests * cached) if case.job == "decode" else 0.0,
    }
