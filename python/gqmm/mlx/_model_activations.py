"""Activations over arrays of MLX, and the functions of MLX and mlx-lm that install() computes with them."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from gqmm import _activations as activations
from gqmm.mlx._load import extension
from gqmm.mlx._replaced_functions import FunctionsReplacedAfterImport

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


def activate(
    gate: mx.array, up: mx.array | None, activation: activations.Activation, *, stream: mx.Stream | mx.Device | None = None
) -> mx.array:
    """Compute the activation of a feed-forward block, as gqmm.activate does, as one primitive of MLX's lazy graphs.

    Args:
        gate: float16, bfloat16 or float32, of any shape.
        up: an array of gate's shape and type; nothing broadcasts. Gated activations need it; for the others it is None.
        activation: an object such as gqmm.SwiGLU().
        stream: a stream or device of MLX. On another device than the CPU the graph has MLX's own functions.

    Returns:
        A lazy array of gate's shape and type. MLX's functions compute its gradients.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes or types contradict each other, or up is given or missing against the activation.
    """
    h: mx.array = extension.activate(gate, up, activations.checked_tuple(activation, "[activate] activation"), stream)
    return h


@cache
def tuple_of(kind: Any, *constants: Any) -> tuple[Any, ...]:
    """Return an activation as the extension takes it. Making one takes as long as the rest of a layer's Python code."""
    return activations.as_tuple(kind(*constants))


def _served(gate: Any, up: Any, kind: Any, *constants: Any) -> mx.array | None:
    """Return the activation, or None if MLX has to compute it."""
    of_call = None
    if all(constant is None or isinstance(constant, (int, float, str)) for constant in constants):  # and not an array
        with suppress(ValueError):  # a constant is out of gqmm's range
            of_call = tuple_of(kind, *constants)
    h: mx.array | None = extension.activate_if_served(gate, up, of_call)
    return h


def _precise_swiglu(h: mx.array, gate: mx.array, x: mx.array) -> mx.array | None:
    if not h.dtype == gate.dtype == x.dtype:
        gate, x = gate.astype(mx.float32), x.astype(mx.float32)
    y = _served(gate, x, activations.SwiGLU)
    return None if y is None else y.astype(h.dtype)


def _swiglu_oai(gate: mx.array, x: mx.array, alpha: float = 1.702, limit: float = 7.0) -> mx.array | None:
    return _served(gate, x, activations.SwiGLU, alpha, limit, 1.0)


# What replaces a function of a module: a function with its arguments, which returns None where the stock function shall run.
_FUNCTIONS: dict[str, dict[str, Callable[..., mx.array | None]]] = {
    "mlx.nn.layers.activations": {
        "silu": lambda x: _served(x, None, activations.SiLU),
        "gelu": lambda x: _served(x, None, activations.GELU, "none"),
        "gelu_approx": lambda x: _served(x, None, activations.GELU, "tanh"),
        "relu2": lambda x: _served(x, None, activations.ReLU2),
    },
    "mlx_lm.models.activations": {
        "swiglu": lambda gate, x: _served(gate, x, activations.SwiGLU),
        "precise_swiglu": _precise_swiglu,
        "swiglu_oai": _swiglu_oai,
    },
    "mlx_lm.models.gemma4_text": {"geglu": lambda gate, x: _served(gate, x, activations.GeGLU, "tanh")},
    "mlx_lm.models.iquestloopcoder": {"_silu_mul": lambda gate, up: _served(gate, up, activations.SwiGLU)},
    "mlx_lm.models.kimi_k3": {"_situ": lambda x, gate, beta, linear_beta: _served(gate, x, activations.SiTU, beta, linear_beta)},
    "mlx_lm.models.nemotron": {"relu_squared": lambda x: _served(x, None, activations.ReLU2)},
    "mlx_lm.models.step3p5": {"clamped_swiglu": lambda x, gate, limit: _served(gate, x, activations.SwiGLUStep, limit)},
}
# Classes of these modules that keep the function, which they were made with, out of reach.
_CLASSES: dict[str, dict[str, str]] = {"mlx.nn.layers.activations": {"SiLU": "silu", "ReLU2": "relu2"}}


class ActivationsOfModels(FunctionsReplacedAfterImport):
    """Replaces the activations of MLX and mlx-lm by gqmm's, whether they are imported already or will be."""

    def __init__(self) -> None:
        super().__init__(_FUNCTIONS)
        self._calls: dict[Any, Any] = {}  # the methods of classes

    def uninstall(self) -> None:
        """Restore the stock functions."""
        super().uninstall()
        for layer_class, call in self._calls.items():
            layer_class.__call__ = call
        self._calls.clear()

    def _replace(self, module: ModuleType) -> None:
        super()._replace(module)
        for class_name, name in _CLASSES.get(module.__name__, {}).items():
            layer_class = getattr(module, class_name)
            if layer_class in self._calls:
                continue
            function = getattr(module, name)
            self._calls[layer_class] = layer_class.__call__
            layer_class.__call__ = lambda _, x, function=function: function(x)


# The one object. The extension keeps it, because this module may be imported again.
activations_of_models: ActivationsOfModels = extension.__dict__.setdefault("activations_of_models", ActivationsOfModels())
