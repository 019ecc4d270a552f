"""Attention of mlx-lm's models, with the positions that their caches know."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from gqmm.mlx._caches import in_order, positions
from gqmm.mlx._imports import AfterImport, rebind
from gqmm.mlx._load import extension

if TYPE_CHECKING:
    from types import ModuleType

_BASE = "mlx_lm.models.base"
_NAME = "scaled_dot_product_attention"


class AttentionOfModels:
    """Replaces mlx-lm's function that calls mx.fast.scaled_dot_product_attention, by one that gives the origin as well."""

    def __init__(self) -> None:
        self._stock: Any = None
        self._ours = self._attention  # one object, so that it can be found again
        self._imports = AfterImport([_BASE], self._replace)
        # How often a cache whose positions are not known served a call, by its class.
        self.other_caches: Counter[str] = Counter()

    @property
    def installed(self) -> bool:
        """Whether mlx-lm's function is replaced, or will be once it is imported."""
        return self._imports.active

    def install(self) -> None:
        """Replace the function in every module of mlx-lm that has it. Does nothing if it is replaced already."""
        self._imports.start()

    def uninstall(self) -> None:
        """Restore mlx-lm's own function."""
        self._imports.stop()
        if self._stock is not None:
            rebind(self._ours, self._stock)

    def _replace(self, base: ModuleType) -> None:
        found = getattr(base, _NAME)
        if found is not self._ours:
            self._stock = found
            rebind(found, self._ours)

    def _attention(  # the names are mlx-lm's
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        cache: Any,
        scale: float,
        mask: mx.array | str | None,
        sinks: mx.array | None = None,
    ) -> mx.array:
        y: mx.array
        if hasattr(cache, "bits") or not self.installed:  # a program may have kept this function
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


# The one object. The extension keeps it, because this module may be imported again.
attention_of_models: AttentionOfModels = extension.__dict__.setdefault("attention_of_models", AttentionOfModels())
