"""Einstein summation of two arrays, where it is a product of matrices."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import mlx.core as mx

from gqmm.mlx._load import extension


class _ProductOfMatrices(NamedTuple):
    """An einsum of two operands as a product of matrices. Each member names dimensions by their subscripts."""

    batch: str  # in both operands and in the result
    rows: str  # in the first operand and in the result
    columns: str  # in the second operand and in the result
    summed: str  # in both operands alone
    first: str
    second: str
    result: str


def _are_names(term: str) -> bool:
    """Whether the term consists of subscripts alone, each of which stands there once. A result may have none."""
    return all(name.isascii() and name.isalpha() for name in term) and len(set(term)) == len(term)


def _as_product(subscripts: str) -> _ProductOfMatrices | None:
    """Return what the subscripts mean, or None if they are not those of a product of two matrices."""
    operands, arrow, result = subscripts.replace(" ", "").partition("->")
    first, comma, second = operands.partition(",")
    parts = (first, second, result)
    if not arrow or not comma or not all(_are_names(part) for part in parts):
        return None  # without a result, with another number of operands, with "...", or with a diagonal
    product = _ProductOfMatrices(
        batch="".join(name for name in result if name in first and name in second),
        rows="".join(name for name in first if name in result and name not in second),
        columns="".join(name for name in second if name in result and name not in first),
        summed="".join(name for name in first if name in second and name not in result),
        first=first,
        second=second,
        result=result,
    )
    # MLX computes the rest: a subscript in one operand alone is a sum over it, and one in the result alone is an error.
    named = product.batch + product.summed
    complete = (
        set(first) == set(named + product.rows)
        and set(second) == set(named + product.columns)
        and set(result) == set(product.batch + product.rows + product.columns)
    )
    return product if complete and product.summed else None


def _with_dimensions(a: mx.array, names: str, wanted: str) -> mx.array:
    """Return the array, whose dimensions have these names, with its dimensions in the wanted order."""
    return a if names == wanted else a.transpose([names.index(name) for name in wanted])


def einsum(subscripts: str, *operands: Any, stream: Any = None) -> Any:
    """Compute as mx.einsum(subscripts, *operands, stream=stream) does; a product of matrices is computed by gqmm's matmul.

    That is an einsum of two arrays with an explicit result, in which each subscript stands in two or three of the terms, and at
    least one is summed: "bhqd,bhkd->bhqk", for instance. MLX's own einsum computes everything else, and reports wrong arguments.
    """
    product = _as_product(subscripts) if isinstance(subscripts, str) and len(operands) == 2 else None
    if product is None or not all(isinstance(operand, mx.array) for operand in operands):
        return _stock()(subscripts, *operands, stream=stream)
    a, b = operands
    if a.ndim != len(product.first) or b.ndim != len(product.second):
        return _stock()(subscripts, *operands, stream=stream)
    sizes_a = dict(zip(product.first, a.shape, strict=True))
    sizes_b = dict(zip(product.second, b.shape, strict=True))
    if any(sizes_a[name] != sizes_b[name] for name in product.batch + product.summed):
        return _stock()(subscripts, *operands, stream=stream)

    sizes = sizes_a | sizes_b

    def shape(names: str) -> list[int]:
        return [sizes[name] for name in names]

    def size(names: str) -> int:
        return prod(shape(names))

    left = _with_dimensions(a, product.first, product.batch + product.rows + product.summed)
    right = _with_dimensions(b, product.second, product.batch + product.summed + product.columns)
    left = left.reshape(*shape(product.batch), size(product.rows), size(product.summed))
    right = right.reshape(*shape(product.batch), size(product.summed), size(product.columns))
    flat = extension.matmul(left, right, stream=stream)
    whole = flat.reshape(shape(product.batch + product.rows + product.columns))
    return _with_dimensions(whole, product.batch + product.rows + product.columns, product.result)


def _stock() -> Any:
    return extension.stock_functions["einsum"]
