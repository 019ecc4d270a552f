"""How much a case must compute and read at least: the work that is compared with the limits of the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlx.utils import tree_flatten

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


def work_of(model: RandomModel, case: Case) -> dict[str, float]:
    """Count a call's operations, of products and of attention, and the bytes that it reads: weights and cache.

    A multiply-add counts as two operations. mlx-lm evaluates only the caches of a prompt, so of the last layer all tokens but one
    need the keys and values alone.
    """
    shape, layer = model.shape, model.model.layers[0]
    T = case.tokens_of_call
    first, full = (0, 1) if case.job == "prompt" else (case.tokens, T)  # `full`: the tokens that need the last layer
    keys_and_values = 2 * shape.hidden * shape.kv_heads * shape.head_dim
    of_layer = keys_and_values + 2 * shape.hidden * shape.heads * shape.head_dim
    of_layer += 3 * shape.hidden * shape.width * max(shape.top, 1) + shape.hidden * shape.experts
    products = 2.0 * ((shape.layers - 1) * T * of_layer + full * of_layer + (T - full) * keys_and_values)
    products += 2.0 * full * shape.hidden * shape.vocabulary
    pairs = 0
    for i, window in enumerate(windows(shape)):
        if case.job == "decode":
            pairs += T * visible_pairs(first, 1, window)
        else:
            last = i + 1 == shape.layers
            pairs += visible_pairs(T - 1 if last else 0, 1 if last else T, window)
    experts = model.experts
    of_experts = 0 if experts is None else nbytes(experts)
    read = shape.layers * (nbytes(layer) - of_experts) + nbytes(model.model.lm_head)
    if experts is not None:
        read += (shape.layers - 1) * of_experts * experts_hit(shape, T) / shape.experts
        read += of_experts * experts_hit(shape, full) / shape.experts
    row = 2 * shape.kv_heads * shape.head_dim * model.dtype.size
    cached = sum(min(case.tokens, window or case.tokens) for window in windows(shape)) if case.job == "decode" else 0
    return {
        "products": products,
        "attention": 4.0 * shape.heads * shape.head_dim * pairs,
        "weight_bytes": float(read),
        "cache_bytes": float(case.requests * row * cached),
    }
