"""Slots of an expert layer that become one summed result, if the model's own code multiplies and adds them as usual.

The blocks of mlx-lm compute ``(slots * scores[..., None]).sum(axis=-2)``, and many of them ``.astype(slots.dtype)`` after that.
Here slots are an array of MLX whose methods recognise these steps. At the last one they give the result of another function,
which computes the sum at once. At every step the object is also the array that MLX would have there. So any other use of it, by a
model or by MLX, has the ordinary values. MLX is lazy, so it never computes what is not used.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import mlx.core as mx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    # What gives the sum of the slots for router weights of shape (…, k).
    Sum = Callable[[mx.array], mx.array]

_WEIGHT_TYPES = (mx.float32, mx.float16, mx.bfloat16)


class _Step(mx.array):
    """An array that remembers how it was made, until something changes its values in place."""

    __slots__ = ("_made",)

    def __init__(self, values: mx.array, made: Any):
        super().__init__(values)
        self._made = made


def _forgetting(stock: Any) -> Any:
    def method(self: _Step, *arguments: Any) -> Any:
        self._made = None
        return stock(self, *arguments)

    return method


def _methods_in_place() -> Iterator[str]:
    """The names of the methods that change an array: item assignment, and __iadd__ and its like."""
    yield "__setitem__"
    for name in dir(mx.array):
        if name.startswith("__i") and hasattr(mx.array, f"__{name[3:]}"):
            yield name


for _name in _methods_in_place():
    setattr(_Step, _name, _forgetting(getattr(mx.array, _name)))


class Slots(_Step):
    """The slots of an expert layer, shape (…, k, H). They are made of what gives their sum, a Sum."""

    __slots__ = ()

    def __mul__(self, other: Any) -> mx.array:
        return self._weighted(mx.array.__mul__(self, other), other)

    def __rmul__(self, other: Any) -> mx.array:
        return self._weighted(mx.array.__rmul__(self, other), other)

    def _weighted(self, product: mx.array, weights: Any) -> mx.array:
        is_weights = (
            self._made is not None
            and isinstance(weights, mx.array)
            and weights.dtype in _WEIGHT_TYPES
            and weights.shape == (*self.shape[:-1], 1)
        )
        return _WeightedSlots(product, (self._made, self.dtype, weights.squeeze(-1))) if is_weights else product


class _WeightedSlots(_Step):
    """Slots times their weights, made of the Sum, the type of the slots, and the weights."""

    __slots__ = ()

    def sum(self, axis: Any = None, keepdims: bool = False, *, stream: Any = None) -> mx.array:
        """Add up elements, as mx.array.sum does."""
        if self._made is None or axis not in (-2, self.ndim - 2) or keepdims or stream is not None:
            return super().sum(axis, keepdims, stream=stream)
        sum_of_slots, dtype, weights = self._made
        if self.dtype == dtype:
            total: mx.array = sum_of_slots(weights)
            return total
        return _WideSum(super().sum(axis), self._made)


class _WideSum(_Step):
    """The sum, of a wider type than the slots because the weights are of that type. It is made of the same."""

    __slots__ = ()

    def astype(self, dtype: mx.Dtype, stream: Any = None) -> mx.array:
        """Convert to another type, as mx.array.astype does."""
        if self._made is None or dtype != self._made[1] or stream is not None:
            return super().astype(dtype, stream)
        sum_of_slots, _, weights = self._made
        total: mx.array = sum_of_slots(weights)
        return total


# Blocks of mlx-lm whose forward has these steps, by their module in mlx_lm.models. Each is tested against stock MLX.
BLOCKS = {
    "Klear": "KlearSparseMoeBlock",
    "afmoe": "AfmoeMoE",
    "bailing_hybrid": "SparseMoeBlock",
    "bailing_moe_linear": "SparseMoeBlock",
    "bailing_moe_v3": "BailingSparseMoE",
    "deepseek": "DeepseekMoE",
    "deepseek_v2": "DeepseekV2MoE",
    "deepseek_v3": "DeepseekV3MoE",
    "deepseek_v32": "DeepseekV32MoE",
    "dots1": "Dots1MoE",
    "ernie4_5_moe": "Ernie4_5_MoeMLP",
    "exaone_moe": "MoE",
    "gemma4_text": "Experts",
    "glm4_moe": "MoE",
    "glm4_moe_lite": "Glm4MoeLiteMoE",
    "gpt_oss": "MLPBlock",
    "granitemoe": "GraniteMoeMoE",
    "granitemoehybrid": "GraniteMoeHybridMoE",
    "hunyuan": "MoeBlock",
    "jamba": "JambaSparseMoeBlock",
    "kimi_k3": "KimiK3SparseMoE",
    "kimi_linear": "KimiSparseMoE",
    "laguna": "MoE",
    "lfm2_moe": "Lfm2MoeSparseMoeBlock",
    "mellum": "MellumSparseMoeBlock",
    "mimo_v2_flash": "MoE",
    "minimax": "MiniMaxSparseMoeBlock",
    "minimax_m3_vl": "SparseMoeBlock",
    "mistral4": "Mistral4MoE",
    "mixtral": "MixtralSparseMoeBlock",
    "nemotron_h": "NemotronHMoE",
    "olmoe": "OlmoeSparseMoeBlock",
    "phimoe": "PhiMoESparseMoeBlock",
    "phixtral": "MOE",
    "qwen2_moe": "Qwen2MoeSparseMoeBlock",
    "qwen3_moe": "Qwen3MoeSparseMoeBlock",
    "qwen3_next": "Qwen3NextSparseMoeBlock",
    "step3p5": "Step3p5MoE",
}


class _Running(threading.local):
    block = False


_running = _Running()


def block_is_running() -> bool:
    """Return whether this thread is inside the forward of one of the blocks."""
    return _running.block


def forward_of_block(stock: Any) -> Any:
    """Return a block's forward inside which expert layers give Slots."""

    def call(block: Any, *arguments: Any, **named: Any) -> Any:
        outer, _running.block = _running.block, True
        try:
            return stock(block, *arguments, **named)
        finally:
            _running.block = outer

    return call
