"""Pack the quantized parameters of a model, and release the arrays that they were made from."""

from __future__ import annotations

import copy
import importlib
import sys
import weakref
from collections.abc import ItemsView, Iterator, ValuesView
from dataclasses import dataclass, field
from typing import Any, cast

import mlx.core as mx

from gqmm.mlx._load import extension

nn: Any = importlib.import_module("mlx.nn")  # mlx.nn has no type hints

_PARTS = ("weight", "scales", "biases")


@dataclass(frozen=True)
class PackReport:
    """What pack_model did. Modules have the names that nn.Module.named_modules gives them."""

    packed: tuple[str, ...]
    """The modules whose parameters are packed now. Those that an earlier call packed are among them."""
    left: dict[str, str]
    """The other modules with quantized parameters, each with the reason why it was not packed."""
    packed_bytes: int
    """The number of bytes of the packed parameters. Parameters that several modules share count once."""
    original_bytes: int
    """The number of bytes of the arrays that the packed parameters replace."""
    still_held: tuple[str, ...]
    """The modules whose arrays are still held by something other than the model. Their memory has not been freed."""

    def __str__(self) -> str:
        """Describe the report in a few lines of text."""
        sizes = f"{self.packed_bytes / 1e6:.1f} MB in the place of {self.original_bytes / 1e6:.1f} MB"
        lines = [f"{len(self.packed)} modules packed, {sizes}"]
        lines += [f"  left as it is: {name or 'the model'}, because {reason}" for name, reason in self.left.items()]
        lines += [f"  arrays still held by something else: {name or 'the model'}" for name in self.still_held]
        return "\n".join(lines)


class _Part:
    """A placeholder for a parameter in the dictionary of a packed module.

    Reading the parameter makes a new array that stands for it. The array is not kept. If somebody evaluated it, it would hold
    the memory that packing was to free.
    """

    def __init__(self, parameters: Any, index: int):
        self.parameters, self.index = parameters, index

    def __deepcopy__(self, memo: dict[int, Any]) -> _Part:
        return self

    def array(self) -> mx.array:
        return cast(mx.array, self.parameters.part(self.index))

    def is_stood_for_by(self, value: Any) -> bool:
        return isinstance(value, mx.array) and bool(self.parameters.is_part(value, self.index))


def _shown(value: Any) -> Any:
    return value.array() if isinstance(value, _Part) else value


class _PackedModule(nn.Module):  # type: ignore[misc]
    """The base class that packing adds to a module's class.

    The module's dictionary shows arrays. An assignment to a packed parameter, or its deletion, turns the module back into an
    ordinary one. Its other parameters are then unpacked when they are used.
    """

    __slots__ = ()
    _unpacked_class: type

    def __getitem__(self, key: str) -> Any:
        return _shown(dict.__getitem__(self, key))

    def get(self, key: str, default: Any = None) -> Any:
        return _shown(dict.get(self, key, default))

    # Because the class has an iterator of its own, dict(module) and {**module} read through __getitem__.
    def __iter__(self) -> Iterator[str]:
        return dict.__iter__(self)

    def items(self) -> ItemsView[str, Any]:
        return dict(self).items()

    def values(self) -> ValuesView[Any]:
        return dict(self).values()

    def copy(self) -> dict[str, Any]:
        return dict(self)

    def __setitem__(self, key: str, value: Any) -> None:
        current = dict.get(self, key)
        if isinstance(current, _Part):
            if current.is_stood_for_by(value):
                return
            self._unpack()
        dict.__setitem__(self, key, value)

    def __delitem__(self, key: str) -> None:
        if isinstance(dict.get(self, key), _Part):
            self._unpack()
        dict.__delitem__(self, key)

    def pop(self, key: str, *default: Any) -> Any:
        if isinstance(dict.get(self, key), _Part):
            self._unpack()
        return dict.pop(self, key, *default)

    def _unpack(self) -> None:
        for key, value in dict(self).items():
            dict.__setitem__(self, key, value)
        object.__setattr__(self, "__class__", self._unpacked_class)

    def __copy__(self) -> Any:
        return self._copied(dict(dict.items(self)), dict(vars(self)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self._copied(copy.deepcopy(dict(dict.items(self)), memo), copy.deepcopy(dict(vars(self)), memo))

    def _copied(self, entries: dict[str, Any], attributes: dict[str, Any]) -> Any:
        other: Any = type(self).__new__(type(self))
        for key, value in entries.items():
            dict.__setitem__(other, key, value)
        other.__dict__.update(attributes)
        return other

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Put the ordinary module, with unpacked arrays, into a pickle."""
        return _new_module, (self._unpacked_class,), dict(vars(self)), None, iter(dict(self).items())


def _new_module(unpacked_class: Any) -> Any:
    """Make an empty module when a pickle is read. The pickle then adds the attributes and arrays."""
    return unpacked_class.__new__(unpacked_class)


_packed_classes: dict[type, type] = {}


def _packed_class(unpacked: type) -> type:
    if unpacked not in _packed_classes:
        body = {"_unpacked_class": unpacked, "__module__": unpacked.__module__, "__doc__": unpacked.__doc__}
        _packed_classes[unpacked] = type(unpacked.__name__, (_PackedModule, unpacked), body)
    return _packed_classes[unpacked]


def _known_classes() -> tuple[type, ...]:
    """List the classes that can be packed.

    Their products are x @ w.T by mx.quantized_matmul or mx.gather_qmm, and they use their weights for nothing else.
    """
    known = [nn.QuantizedLinear, nn.QuantizedAllToShardedLinear, nn.QuantizedShardedToAllLinear]
    switch_layers = sys.modules.get("mlx_lm.models.switch_layers")
    if switch_layers is not None:
        known.append(switch_layers.QuantizedSwitchLinear)
    return tuple(known)


def _is_quantized(module: Any) -> bool:
    weight, scales = module.get("weight"), module.get("scales")
    return isinstance(scales, mx.array) and isinstance(weight, mx.array) and weight.dtype == mx.uint32


def _reason_to_leave(module: Any) -> str | None:
    if isinstance(module, nn.QuantizedEmbedding):
        return "its rows are looked up one by one"
    if not isinstance(module, _known_classes()):
        return f"{type(module).__name__} is no class whose products are known to be x @ w.T"
    if any(getattr(module, name, None) is None for name in ("group_size", "bits", "mode")):
        return "it has no group_size, bits or mode"
    return None


@dataclass
class _SharedParameters:
    """A set of parameters, and the modules that share it."""

    arrays: list[mx.array]
    settings: tuple[int, int, str]
    modules: list[tuple[str, Any]] = field(default_factory=list)


def _pack(shared: _SharedParameters) -> str | None:
    """Pack the parameters for all their modules, and release the arrays. If that is impossible, return the reason."""
    biases = shared.arrays[2] if len(shared.arrays) > 2 else None
    try:
        parameters = extension.pack_parameters(shared.arrays[0], shared.arrays[1], biases, *shared.settings)
    except ValueError as error:
        return str(error)
    shared.arrays.clear()
    for _, module in shared.modules:
        for index in range(parameters.parts):
            dict.__setitem__(module, _PARTS[index], _Part(parameters, index))
        object.__setattr__(module, "__class__", _packed_class(type(module)))
    return None


def _shared_parameters(modules: list[tuple[str, Any]]) -> list[_SharedParameters]:
    sets: dict[tuple[Any, ...], _SharedParameters] = {}
    for name, module in modules:
        arrays = [module[part] for part in _PARTS if isinstance(module.get(part), mx.array)]
        settings = (module.group_size, module.bits, module.mode)
        shared = sets.setdefault((*map(id, arrays), *settings), _SharedParameters(arrays, settings))
        shared.modules.append((name, module))
    return list(sets.values())


def pack_model(model: Any) -> PackReport:
    """Replace the quantized parameters of a model by packed ones, which are in the order in which the kernels read them.

    The products of nn.QuantizedLinear, its sharded forms and mlx-lm's QuantizedSwitchLinear then read the packed weights. They do
    so while gqmm's functions are installed, and the results have the same bits. The arrays are released one module after the
    other, so that a model does not take its memory twice. Modules that share arrays share the packed weights. A second call
    changes nothing.

    The parameters can still be read: parameters(), save_weights() and state show arrays that stand for them. Evaluating such an
    array unpacks it, and the module stays packed. An assignment to a parameter, as in update() and load_weights(), turns its
    module back into an ordinary one. Call pack_model again after that. MLX's own functions unpack the parameters at each call, so
    install gqmm's functions first. The gradient of a packed module's input unpacks its parameters, too.

    Writes through a NumPy view or a tensor that shares an array's memory do not reach the packed parameters. Neither does an
    update in place of an array that was read from a packed module, as in module.weight[0] = 0. Assign a whole array instead.

    Args:
        model: any nn.Module. Its parameters are evaluated.

    Returns:
        A report of the modules that were packed, and of the others with the reasons.

    Raises:
        TypeError: model is no nn.Module.
        MemoryError: there is no memory to pack one more module. The modules before it are packed.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"[pack_model] model: expected an mlx.nn.Module, got {type(model).__name__}")
    modules = {id(module): (name, module) for name, module in reversed(model.named_modules())}
    packed: dict[str, Any] = {}
    left: dict[str, str] = {}
    to_pack: list[tuple[str, Any]] = []
    for name, module in sorted(modules.values(), key=lambda named: named[0]):
        if isinstance(module, _PackedModule):
            packed[name] = module
        elif _is_quantized(module):
            reason = _reason_to_leave(module)
            if reason is None:
                to_pack.append((name, module))
            else:
                left[name] = reason
    originals: list[tuple[str, weakref.ref[mx.array]]] = []
    sets = _shared_parameters(to_pack)
    while sets:
        shared = sets.pop()
        watched = [(name, weakref.ref(array)) for name, _ in shared.modules for array in shared.arrays]
        reason = _pack(shared)
        if reason is None:
            packed.update(shared.modules)
            originals += watched
        else:
            left.update((name, reason) for name, _ in shared.modules)
    mx.clear_cache()
    parts = [cast(_Part, dict.get(module, "weight")) for module in packed.values()]
    parameters = {id(part.parameters): part.parameters for part in parts}
    return PackReport(
        packed=tuple(sorted(packed)),
        left=dict(sorted(left.items())),
        packed_bytes=sum(each.nbytes for each in parameters.values()),
        original_bytes=sum(each.original_bytes for each in parameters.values()),
        still_held=tuple(sorted({name for name, array in originals if array() is not None})),
    )
