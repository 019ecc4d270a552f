"""Blocks of mlx-lm whose expert layer gives the sum of its slots, and what happens to slots that are used in another way."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("mlx_lm")
pytest.importorskip("gqmm.mlx")

import gqmm.mlx as drop_in
import mlx.core as mx
import mlx.nn as nn
from families import FAMILIES
from gqmm.mlx import _moe
from gqmm.mlx._slots import BLOCKS, Slots
from mlx.utils import tree_flatten
from mlx_lm.models import switch_layers
from mlx_lm_support import assert_close, build, evaluated, stock, terms, tolerance_of

pytestmark = pytest.mark.mlx

UNIT = {mx.float32: 2**-24, mx.float16: 2**-11, mx.bfloat16: 2**-8}
# Configurations without a projection between the sum and the block's result, so that the test's bound holds.
PLAIN = {
    "kimi_k3": {"routed_expert_hidden_size": None, "latent_moe_use_norm": False},
    "nemotron_h": {"moe_latent_size": None},
}


def block_of(module: str) -> nn.Module:
    """A block of a tiny model with random weights. Only its experts are quantized, so both sides have the same router."""
    model = build(replace(FAMILIES[module], quantization=None, others=None), **PLAIN.get(module, {}))
    kind = getattr(importlib.import_module(f"mlx_lm.models.{module}"), BLOCKS[module], None)
    if kind is None:
        pytest.skip(f"this mlx-lm has no {module}.{BLOCKS[module]}")
    block = next(layer for _, layer in model.named_modules() if type(layer) is kind)
    nn.quantize(block, group_size=32, bits=4, class_predicate=lambda _, layer: isinstance(layer, switch_layers.SwitchLinear))
    return block


def arguments_of(block: nn.Module, dtype: mx.Dtype) -> list[mx.array]:
    mx.random.seed(5)
    x = mx.random.normal((2, 24, 128)).astype(dtype)
    if hasattr(block, "switch_glu"):  # gemma4's, whose router is outside
        ids = mx.argsort(mx.random.normal((2, 24, 16)), axis=-1)[..., :3]
        return [x, ids, mx.softmax(mx.random.normal((2, 24, 3)), axis=-1).astype(dtype)]
    return [x]


class Seen:
    """What a block multiplied, with its own code: the slots and their weights."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        seen = self

        class Watched(mx.array):
            def __mul__(self, other: mx.array) -> mx.array:
                seen.slots, seen.weights = mx.array(self), other
                return super().__mul__(other)

            __rmul__ = __mul__

        for kind in (switch_layers.SwitchGLU, switch_layers.SwitchMLP):
            call = kind.__call__
            monkeypatch.setattr(kind, "__call__", lambda layer, x, ids, call=call: Watched(call(layer, x, ids)))

    def sum_of_sizes(self) -> np.ndarray:
        """Σ|w·y| of each result."""
        return np.abs(evaluated(self.slots) * evaluated(self.weights)).sum(-2)


def ours_and_slots(block: nn.Module, arguments: list[mx.array]) -> tuple[mx.array, mx.array, Seen]:
    """The block's result with the sum in one primitive; and with the block's own sum, of slots that have the same bits."""
    with drop_in.install():
        before = drop_in.status().summed_layers
        ours = block(*arguments)
        assert drop_in.status().summed_layers == before + 1
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(_moe, "block_is_running", lambda: False)
            seen = Seen(monkeypatch)
            of_slots = block(*arguments)
            assert drop_in.status().summed_layers == before
    return ours, of_slots, seen


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
@pytest.mark.parametrize("module", BLOCKS)
def test_blocks_give_the_sum_of_stock(module: str, dtype: mx.Dtype) -> None:
    block = block_of(module)
    block.set_dtype(dtype)
    arguments = arguments_of(block, dtype)
    with stock():
        theirs = block(*arguments)
        mx.eval(theirs)
    ours, of_slots, seen = ours_and_slots(block, arguments)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    unit, k = UNIT[dtype], seen.slots.shape[-2]
    assert_close(evaluated(ours), evaluated(theirs), tolerance_of(evaluated(theirs), terms(block) + k, unit))
    # The block's own sum rounds k products and k − 1 sums, and ours rounds once, each by up to a unit of Σ|w·y|. After that
    # blocks multiply by a number (laguna by its scale, Klear by less than 1) and add shared experts, which rounds twice on each
    # side. The power allows for sizes that have been rounded before.
    scale = max(1.0, getattr(block, "routed_scaling_factor", 1.0)) if module == "laguna" else 1.0
    sizes = scale * seen.sum_of_sizes().reshape(ours.shape)
    bound = unit * (1 + unit) ** (k + 3) * ((k + 1) * sizes + 2 * sizes + 2 * np.abs(evaluated(of_slots)))
    assert_close(evaluated(ours), evaluated(of_slots), bound)


# The router's weights are float32 and the slots are not: the sum is float32 until the block converts it.
@pytest.mark.parametrize("module", ["deepseek_v3", "hunyuan", "mixtral"])
def test_compiled_mapped_and_differentiated_blocks(module: str) -> None:
    block = block_of(module)
    (x,) = arguments_of(block, mx.float32)

    def loss(x: mx.array) -> mx.array:
        return (block(x) ** 2).sum()

    def gradients() -> list[np.ndarray]:
        """Of x, and of the router's parameters."""
        of_block = nn.value_and_grad(block, lambda block: (block(x) ** 2).sum())(block)[1]
        return [evaluated(mx.grad(loss)(x)), *(evaluated(gradient) for _, gradient in tree_flatten(of_block["gate"]))]

    with stock():
        theirs = gradients()
    with drop_in.install():
        y = evaluated(block(x))
        before = drop_in.status().summed_layers
        assert np.array_equal(evaluated(mx.compile(block)(x)), y)
        mapped = mx.vmap(block)(mx.stack([x, x[::-1]]))
        assert np.array_equal(evaluated(mapped[1]), y[::-1])
        ours = gradients()
        assert drop_in.status().summed_layers == before
    assert len(ours) > 1
    for our, their in zip(ours, theirs, strict=True):
        # The forward, the gradient of it, and the sum over the tokens.
        assert_close(our, their, tolerance_of(their, 3 * terms(block) + x.shape[0] * x.shape[1]))


# --- Slots that are used in another way -------------------------------------------------------------------------------------

K, WIDTH = 3, 4


class Layer:
    """Slots of three tokens, and a sum that tells itself apart from MLX's: it is 1000 more."""

    def __init__(self, dtype: mx.Dtype = mx.float32):
        mx.random.seed(3)
        self.values = mx.random.normal((3, K, WIDTH)).astype(dtype)
        self.weights = mx.random.uniform(shape=(3, K))

    def slots(self) -> Slots:
        def far_away(weights: mx.array) -> mx.array:
            return mx.full((3, WIDTH), 1000 + weights.sum().item()).astype(self.values.dtype)

        return Slots(mx.array(self.values), far_away)


def is_ours(y: mx.array) -> bool:
    return bool(mx.all(y > 900).item())


@pytest.mark.parametrize("axis", [-2, 1])
def test_the_usual_steps_give_the_sum_at_once(axis: int) -> None:
    layer = Layer()
    w = layer.weights[..., None]
    for y in (
        (layer.slots() * w).sum(axis=axis),
        (w * layer.slots()).sum(axis),
        (layer.slots() * w).sum(axis).astype(mx.float32),
    ):
        assert is_ours(y)
        assert type(y) is mx.array


def test_a_sum_of_a_wider_type_waits_for_the_conversion() -> None:
    layer = Layer(mx.bfloat16)
    slots, w = layer.slots(), layer.weights[..., None]
    total = (slots * w).sum(axis=-2)
    assert total.dtype == mx.float32
    assert mx.array_equal(total, (layer.values * w).sum(axis=-2))
    assert is_ours(total.astype(slots.dtype))
    assert total.astype(slots.dtype).dtype == mx.bfloat16
    assert mx.array_equal(total.astype(mx.float16), (layer.values * w).sum(axis=-2).astype(mx.float16))
    total += 1
    assert not is_ours(total.astype(slots.dtype))


OTHER_USES = {
    "another axis": lambda y, w: (y * w).sum(axis=-1),
    "two axes": lambda y, w: (y * w).sum(axis=(-2, -1)),
    "all axes": lambda y, w: (y * w).sum(),
    "keepdims": lambda y, w: (y * w).sum(axis=-2, keepdims=True),
    "a stream": lambda y, w: (y * w).sum(axis=-2, stream=mx.cpu),
    "the function mx.sum": lambda y, w: mx.sum(y * w, axis=-2),
    "a number": lambda y, w: (y * 2).sum(axis=-2),
    "weights of the shape of slots": lambda y, w: (y * mx.broadcast_to(w, y.shape)).sum(axis=-2),
    "weights for all tokens": lambda y, w: (y * w[0]).sum(axis=-2),
    "integers": lambda y, w: (y * (10 * w).astype(mx.int32)).sum(axis=-2),
    "a quotient": lambda y, w: (y / w).sum(axis=-2),
    "twice weighted": lambda y, w: ((y * w) * w).sum(axis=-2),
    "no weights": lambda y, w: y.sum(axis=-2),
    "rows": lambda y, w: (y[1:] * w[1:]).sum(axis=-2),
    "a compiled function": lambda y, w: mx.compile(lambda y, w: (y * w).sum(axis=-2))(y, w),
}


@pytest.mark.parametrize("name", OTHER_USES)
def test_other_uses_have_the_values_of_the_slots(name: str) -> None:
    layer, use = Layer(), OTHER_USES[name]
    w = layer.weights[..., None]
    assert mx.array_equal(use(layer.slots(), w), use(layer.values, w))


CHANGES = {
    "addition": lambda y, w: y.__iadd__(1),
    "product": lambda y, w: y.__imul__(w),
    "assignment": lambda y, w: y.__setitem__(0, 0),
}


@pytest.mark.parametrize("name", CHANGES)
def test_slots_that_are_changed_in_place_are_ordinary(name: str) -> None:
    layer, change = Layer(), CHANGES[name]
    w = layer.weights[..., None]
    results = []
    for slots in (layer.slots(), mx.array(layer.values)):
        product = slots * w
        change(slots, w)
        change(product, w)
        results.append([(slots * w).sum(axis=-2), product.sum(axis=-2)])
    for ours, theirs in zip(*results, strict=True):
        assert mx.array_equal(ours, theirs)


def test_weights_that_are_changed_after_the_product_do_not_change_the_sum() -> None:
    layer = Layer()
    w = layer.weights[..., None]
    expected = (layer.slots() * w).sum(axis=-2)
    product = layer.slots() * w
    w += 1
    assert mx.array_equal(product.sum(axis=-2), expected)


def test_only_blocks_of_the_table_get_slots() -> None:
    layer = switch_layers.SwitchGLU(64, 32, 4)
    with drop_in.install():
        assert type(layer(mx.ones((1, 64)), mx.zeros((1, 2), mx.int32))) is mx.array
    kind = getattr(importlib.import_module("mlx_lm.models.mixtral"), BLOCKS["mixtral"])
    theirs = kind.__call__
    with drop_in.install():
        assert kind.__call__ is not theirs
        with pytest.raises(TypeError):
            kind.__call__(None)
        assert not _moe.block_is_running()
    assert kind.__call__ is theirs


LATE = """
import gqmm.mlx
gqmm.mlx.install()
import mlx.core as mx
from mlx_lm.models.mixtral import MixtralSparseMoeBlock, ModelArgs
block = MixtralSparseMoeBlock(ModelArgs("mixtral", hidden_size=64, intermediate_size=32))
mx.eval(block(mx.ones((1, 1, 64))))
assert gqmm.mlx.status().summed_layers == 1, gqmm.mlx.status()
assert "with the sum" in str(gqmm.mlx.status())
"""


def test_blocks_may_be_imported_later() -> None:
    subprocess.run([sys.executable, "-c", LATE], check=True, timeout=120)
