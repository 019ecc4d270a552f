"""Attention of mlx-lm's models, with the positions that their caches know."""

from __future__ import annotations

import abc
from collections import Counter
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from gqmm.mlx._caches import in_order, positions
from gqmm.mlx._imports import AfterImport, ReplacedAfterImport, rebind
from gqmm.mlx._load import extension

if TYPE_CHECKING:
    from types import ModuleType

_BASE = "mlx_lm.models.base"


class FunctionOfModels(ReplacedAfterImport, abc.ABC):
    """A function of mlx-lm's models that is replaced in every module that has it."""

    name: str

    def __init__(self) -> None:
        self._stock: Any = None
        self._ours = self._call  # one object, so that it can be found again
        self._imports = AfterImport([_BASE], self._replace)

    @abc.abstractmethod
    def _call(self, *arguments: Any, **options: Any) -> Any:
        """Do what mlx-lm's function does."""

    def uninstall(self) -> None:
        """Restore mlx-lm's own function."""
        self._imports.stop()
        if self._stock is not None:
            rebind(self._ours, self._stock)

    def _replace(self, base: ModuleType) -> None:
        found = getattr(base, self.name)
        if found is not self._ours:
            self._stock = found
            rebind(found, self._ours)


class QuantizedAttentionOfModels(FunctionOfModels):
    """Replaces mlx-lm's attention over a quantized cache.

    mlx-lm does not pass it the cache. Its quantized caches have position 0 at index 0, so there is no origin to give.
    """

    name = "quantized_scaled_dot_product_attention"

    def _call(  # the names are mlx-lm's
        self,
        queries: mx.array,
        q_keys: Any,
        q_values: Any,
        scale: float,
        mask: mx.array | str | None,
        group_size: int = 64,
        bits: int = 8,
    ) -> mx.array:
        function = extension.quantized_scaled_dot_product_attention if self.installed else self._stock
        y: mx.array = function(queries, q_keys, q_values, scale=scale, mask=mask, group_size=group_size, bits=bits)
        return y


class AttentionOfModels(FunctionOfModels):
    """Replaces mlx-lm's function that calls mx.fast.scaled_dot_product_attention, by one that gives the origin as well."""

    name = "scaled_dot_product_attention"

    def __init__(self, quantized: QuantizedAttentionOfModels) -> None:
        super().__init__()
        self._quantized = quantized
        # How often a cache whose positions are not known served a call, by its class.
        self.other_caches: Counter[str] = Counter()

    def _call(  # the names are mlx-lm's
        self,
        queries: mx.array,
        keys: Any,
        values: Any,
        cache: Any,
        scale: float,
        mask: mx.array | str | None,
        sinks: mx.array | None = None,
    ) -> mx.array:
        y: mx.array
        if hasattr(cache, "bits") or not self.installed:  # a program may have kept this function
            if self.installed and self._quantized.installed and positions(cache, keys[0].shape[-2]) is None:
                self.other_caches[type(cache).__qualname__] += 1
            y = self._stock(queries, keys, values, cache, scale, mask, sinks)
            return y
        known = None if cache is None else positions(cache, keys.shape[-2])
        if known is None:
            if cache is not None:
                self.other_caches[type(cache).__qualname__] += 1
            y = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask, sinks=sinks)
            return y
        if known.first != 0:
            keys, values = in_order(keys, -2, known.first), in_order(values, -2, known.first)
            if isinstance(mask, mx.array) and mask.shape[-1] == keys.shape[-2]:
                mask = in_order(mask, -1, known.first)
        origin: mx.array | None
        if isinstance(known.origin, int):
            origin = None if known.origin == 0 else mx.full((queries.shape[0],), known.origin, mx.int64)
        else:
            origin = known.origin
        y = extension.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask, sinks=sinks, origin=origin)
        return y


# The one object of each. The extension keeps them, because this module may be imported again.
quantized_attention_of_models: QuantizedAttentionOfModels = extension.__dict__.setdefault(
    "quantized_attention_of_models", QuantizedAttentionOfModels()
)
attention_of_models: AttentionOfModels = extension.__dict__.setdefault(
    "attention_of_models", AttentionOfModels(quantized_attention_of_models)
)
