"""moe_ffn over arrays of MLX, and the expert layers of mlx-lm that install() computes with it."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from gqmm import _activations as activations
from gqmm._shared_experts import SharedExperts
from gqmm.mlx._imports import AfterImport, ReplacedAfterImport
from gqmm.mlx._load import extension
from gqmm.mlx._model_activations import tuple_of
from gqmm.mlx._slots import BLOCKS, Slots, block_is_running, forward_of_block

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from gqmm._gqmm import QuantizedWeights

_MODELS = "mlx_lm.models"
_MODULE = f"{_MODELS}.switch_layers"
_COMPUTE_TYPES = (mx.float32, mx.float16, mx.bfloat16)
_MODES = ("affine", "mxfp4", "mxfp8", "nvfp4")


def moe_ffn(
    x: mx.array,
    topk_ids: mx.array,
    topk_weights: mx.array | None,
    gate: QuantizedWeights | mx.array,
    up: QuantizedWeights | mx.array | None,
    down: QuantizedWeights | mx.array,
    *,
    activation: activations.Activation = activations.SwiGLU(),  # noqa: B008  (it is frozen)
    gate_up_order: str = "gate_up",
    gate_bias: mx.array | None = None,
    up_bias: mx.array | None = None,
    down_bias: mx.array | None = None,
    router_weight_on_input: bool = False,
    missing: str = "error",
    local_experts: tuple[int, int] | None = None,
    shared: SharedExperts | None = None,
    precision: str | None = None,
    stream: mx.Stream | mx.Device | None = None,
) -> mx.array:
    """Compute the feed-forward layer of a mixture of experts as one primitive of MLX's lazy graphs.

    Arguments, shapes and types are those of gqmm.moe_ffn, with arrays of MLX. Weights are gqmm.QuantizedWeights of MLX's arrays,
    or dense arrays. The layer has MLX's transforms. Gradients are those of gqmm.moe_ffn_vjp, which computes the forward again.
    Those of shared experts' parameters, second derivatives, tangents, and batches over weights are computed from products. On
    another device than the CPU the graph has MLX's own functions.

    Args:
        x: the tokens, float16, bfloat16 or float32, shape (…, H).
        topk_ids: the experts of each token, any integer type, shape (…, k).
        topk_weights: the router's weights, shape (…, k). None: the slots are not added up.
        gate: shape (E, I, H), or (E, 2·I, H) in gate_up_order if the activation is gated and up is None.
        up: shape (E, I, H), or None.
        down: shape (E, H, I).
        activation: an object such as gqmm.SwiGLU().
        gate_up_order: "gate_up", "up_gate" or "interleaved".
        gate_bias: None, or shape (E, I) or (E, 2·I).
        up_bias: None, or shape (E, I).
        down_bias: None, or shape (E, H).
        router_weight_on_input: whether topk_weights multiply x, rounded to its type, instead of the results.
        missing: what a negative id means: "error", or "zero" for a slot of zeros.
        local_experts: None, or (first, count): the weights hold only these experts.
        shared: None, or the gqmm.SharedExperts of MLX's arrays that every token takes as well.
        precision: "default", "fast" or "float32". None stands for what install() was given.
        stream: a stream or device of MLX.

    Returns:
        A lazy array of shape (…, H), or (…, k, H) without topk_weights, of the type of x.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes, types or settings contradict each other.
        RuntimeError: an id is out of range. It is raised when the result is evaluated.
    """
    if shared is not None and not isinstance(shared, SharedExperts):
        raise TypeError(f"[moe_ffn] shared: expected gqmm.SharedExperts or None, got {shared!r}")
    y: mx.array = extension.moe_ffn(
        x,
        topk_ids,
        topk_weights,
        gate,
        up,
        down,
        activations.checked_tuple(activation, "[moe_ffn] activation"),
        gate_up_order,
        gate_bias,
        up_bias,
        down_bias,
        missing,
        local_experts,
        precision,
        stream,
        router_weight_on_input,
        None if shared is None else shared._as_tuple(),
    )
    return y


class NotFusedError(Exception):
    """A layer stays as mlx-lm has it, for this reason."""


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _gelu(activation: Any) -> tuple[Any, ...]:
    match activation._approx:
        case "none":
            return activations.GELU, "none"
        case "precise" | "tanh":
            return activations.GELU, "tanh"
        case other:
            raise NotFusedError(f"its activation is nn.GELU(approx={other!r})")


# The activations of mlx-lm's models by their class: functions that return gqmm's class and constants. Each is tested against
# stock.
_ACTIVATIONS: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "mlx_lm.models.switch_layers.SwiGLU": lambda a: (activations.SwiGLU,),
    "mlx_lm.models.muse_spark.PreciseSwiGLU": lambda a: (activations.SwiGLU,),
    "mlx_lm.models.activations.SwigluOAI": lambda a: (activations.SwiGLU, a._alpha, a._limit, 1.0),
    "mlx_lm.models.deepseek_v41.DeepseekV41SwiGLU": lambda a: (activations.SwiGLU, 1.0, a.limit if a.limit > 0 else None),
    "mlx_lm.models.step3p5.ClampedSwiGLU": lambda a: (activations.SwiGLUStep, a.limit),
    "mlx_lm.models.gemma4_text.GeGLU": lambda a: (activations.GeGLU, "tanh"),
    "mlx_lm.models.kimi_k3.SiTU": lambda a: (activations.SiTU, a.beta, a.linear_beta),
    "mlx.nn.layers.activations.GELU": _gelu,
    "mlx.nn.layers.activations.SiLU": lambda a: (activations.SiLU,),
    "mlx.nn.layers.activations.ReLU2": lambda a: (activations.ReLU2,),
}
_GATED = (activations.SwiGLU, activations.GeGLU, activations.SiTU, activations.SwiGLUStep)


def _activation(activation: Any, gated: bool) -> tuple[Any, ...]:
    name = _name(type(activation))
    found = _ACTIVATIONS.get(name)
    if found is None:
        raise NotFusedError(f"its activation is {name}")
    ours = found(activation)
    if (ours[0] in _GATED) != gated:
        raise NotFusedError(f"its activation is {name}")
    try:
        return tuple_of(*ours)
    except ValueError as error:
        raise NotFusedError(f"its activation is {name}: {error}") from error


def _linear(layer: Any) -> tuple[Any, mx.array | None, list[mx.Dtype]]:
    """Return the layer's weights as the extension takes them, its bias, and the types that the stock result promotes to."""
    kind = _name(type(layer))
    bias = layer.get("bias")
    types = [] if bias is None else [bias.dtype]
    if kind == f"{_MODULE}.SwitchLinear":
        return layer["weight"], bias, [*types, layer["weight"].dtype]
    if kind != f"{_MODULE}.QuantizedSwitchLinear":
        raise NotFusedError(f"one of its layers is {kind}")
    if layer.mode not in _MODES:
        raise NotFusedError(f"its weights have mode {layer.mode!r}")
    biases = layer.get("biases")
    if layer.mode == "affine":
        types += [layer["scales"].dtype, biases.dtype]
    weights = (layer["weight"], layer["scales"], biases, getattr(layer, "global_scale", None))
    return (*weights, layer.group_size, layer.bits, layer.mode), bias, types


# What computes a layer for the router's weights, or its slots for None.
Compute = Callable[[mx.array | None], mx.array]


def layer_of(x: mx.array, indices: mx.array, layers: Sequence[Any], activation: Any, missing: str = "error") -> Compute:
    """Return what computes a layer of mlx-lm. It raises NotFusedError for one that gqmm does not know.

    `layers`: gate, up and down, or two layers around an activation that is not gated. `missing` is that of moe_ffn.
    """
    ours = _activation(activation, gated=len(layers) == 3)
    weights, biases, types = zip(*map(_linear, layers), strict=True)
    promoted = {x.dtype, *(dtype for some in types for dtype in some)}
    if not promoted.issubset(_COMPUTE_TYPES):
        raise NotFusedError(f"its types are {', '.join(sorted(map(str, promoted)))}")
    # The result has the type that stock's has; and so has x, as it is multiplied by weights of that type there.
    x = x.astype(x.dtype if len(promoted) == 1 else mx.float32)
    indices = mx.stop_gradient(indices)
    gate, up, down = (weights[0], None, weights[1]) if len(weights) == 2 else weights
    gate_bias, up_bias, down_bias = (biases[0], None, biases[1]) if len(biases) == 2 else biases

    def compute(topk_weights: mx.array | None) -> mx.array:
        y: mx.array = extension.moe_ffn(
            x,
            indices,
            topk_weights,
            gate,
            up,
            down,
            ours,
            "gate_up",
            gate_bias,
            up_bias,
            down_bias,
            missing,
            None,
            None,
            None,
        )
        return y

    return compute


# The classes of expert layers, and their attributes that hold linear layers.
CLASSES: dict[str, tuple[str, ...]] = {"SwitchGLU": ("gate_proj", "up_proj", "down_proj"), "SwitchMLP": ("fc1", "fc2")}


@dataclass
class _Known:
    """A layer that ran, and what became of its last call."""

    layer: weakref.ref[Any]
    why_not: str | None = None  # why it is not fused
    is_summed: bool = False


class TakeOver(ReplacedAfterImport):
    """Computes SwitchGLU and SwitchMLP of mlx-lm with moe_ffn, whether mlx-lm is imported already or will be."""

    def __init__(self) -> None:
        self._stock: dict[type, Any] = {}
        self._imports = AfterImport([_MODULE, *(f"{_MODELS}.{model}" for model in BLOCKS)], self._patch)
        self._layers: dict[int, _Known] = {}  # by the layer's id, because modules are dictionaries and have no hash

    @property
    def fused_layers(self) -> int:
        """The number of layers that exist now and were computed by moe_ffn at their last call."""
        return sum(known.why_not is None for known in list(self._layers.values()))

    @property
    def summed_layers(self) -> int:
        """The number of fused layers that gave the sum of their slots at their last call."""
        return sum(known.is_summed for known in list(self._layers.values()))

    @property
    def other_layers(self) -> dict[str, int]:
        """Why other layers that exist now were computed as mlx-lm has them, and how many."""
        return dict(Counter(known.why_not for known in list(self._layers.values()) if known.why_not is not None))

    def uninstall(self) -> None:
        """Restore mlx-lm's own methods."""
        self._imports.stop()
        for layer_class, call in self._stock.items():
            layer_class.__call__ = call  # type: ignore[method-assign]
        self._stock.clear()

    def _patch(self, module: ModuleType) -> None:
        if module.__name__ == _MODULE:
            for class_name, names in CLASSES.items():
                self._replace(module, class_name, partial(self._call_of, names=names))
        else:
            self._replace(module, BLOCKS[module.__name__.rpartition(".")[2]], forward_of_block)

    def _replace(self, module: ModuleType, class_name: str, of_stock: Callable[[Any], Any]) -> None:
        found = getattr(module, class_name, None)
        if found is not None:
            self._stock[found] = found.__call__
            found.__call__ = of_stock(found.__call__)

    def _note(self, layer: Any, why_not: str | None) -> _Known:
        key = id(layer)
        known = self._layers.get(key)
        if known is None:
            known = self._layers[key] = _Known(weakref.ref(layer, lambda _: self._layers.pop(key, None)))
        known.why_not, known.is_summed = why_not, False
        return known

    def _call_of(self, stock: Any, names: tuple[str, ...]) -> Any:
        def call(layer: Any, x: mx.array, indices: mx.array) -> mx.array:
            y: mx.array
            try:
                compute = layer_of(x, indices, [layer[name] for name in names], layer.activation)
            except NotFusedError as why:
                self._note(layer, str(why))
                y = stock(layer, x, indices)
                return y
            return self.slots_of(layer, compute)

        return call

    def slots_of(self, layer: Any, compute: Compute) -> mx.array:
        """Return the slots of a fused layer. In the forward of a known block, they also know how to give their sum."""
        y = compute(None)
        known = self._note(layer, None)
        if not block_is_running():
            return y

        def sum_of_slots(topk_weights: mx.array) -> mx.array:
            total = compute(topk_weights)
            known.is_summed = True
            return total

        return Slots(y, sum_of_slots)


# The one object. The extension keeps it, because this module may be imported again.
take_over: TakeOver = extension.__dict__.setdefault("take_over", TakeOver())
