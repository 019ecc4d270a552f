"""What the tests of mlx-lm on the drop-in share: the two sides, stock and ours, how to compare them, and tiny models."""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import gqmm.mlx as drop_in
import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import numpy as np
import pytest
from families import Family
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.switch_layers import SwitchLinear
from mlx_lm.utils import quantize_model

ROOT = Path(__file__).resolve().parents[3]
OURS = ROOT / "models" / "shakespeare-moe-affine4"

sys.path.insert(0, str(ROOT / "examples"))

PROMISED_TOLERANCE = 1e-4  # of float32 logits, in root mean squares of stock's; docs/guide/families.md says it

Result = TypeVar("Result")
Function = Callable[..., tuple[mx.array, ...]]


def checkpoints() -> list[Any]:
    """pytest parameters: the checkpoint in models/, and the others under the folder that GQMM_TEST_MODELS names."""
    name = os.environ.get("GQMM_TEST_MODELS")
    if not name:
        why = "GQMM_TEST_MODELS is not set: it names a folder with more checkpoints to test"
    elif found := sorted({path.parent.name for path in Path(name).glob("*/config.json")} - {OURS.name}):
        return [pytest.param(folder, id=folder.name) for folder in [OURS, *(Path(name) / other for other in found)]]
    else:
        why = f"GQMM_TEST_MODELS names {name}, where there is no checkpoint but {OURS.name}"
    return [pytest.param(OURS, id=OURS.name), pytest.param(None, id="GQMM_TEST_MODELS", marks=pytest.mark.skip(reason=why))]


def calls() -> dict[str, tuple[int, int]]:
    """How often each product ran so far: (ours, stock)."""
    return {name: (count.ours, count.stock) for name, count in drop_in.status().calls.items()}


@contextmanager
def stock() -> Iterator[None]:
    """MLX as it is: the drop-in must take no part."""
    assert not drop_in.status().installed, "an earlier test left the drop-in installed"
    before = calls()
    yield
    assert not drop_in.status().installed
    assert calls() == before, "the drop-in took part in what is to be stock"


@contextmanager
def ours(*products: str, pack: bool = False) -> Iterator[None]:
    """With the drop-in. Each of the named products must run, and no product may fall back to stock."""
    with drop_in.install(pack=pack):
        assert drop_in.status().installed
        before = calls()
        yield
        assert (drop_in.status().packed_arrays > 0) == pack
        ran = {name: (a - before[name][0], b - before[name][1]) for name, (a, b) in calls().items()}
    assert not drop_in.status().installed, "leaving the context did not uninstall"
    assert [name for name in products if not ran[name][0]] == [], f"never ran; (ours, stock) of each: {ran}"
    assert [name for name, (_, fallbacks) in ran.items() if fallbacks] == [], f"fell back; (ours, stock) of each: {ran}"


def both(function: Callable[[], Result], *products: str, pack: bool = False) -> tuple[Result, Result]:
    """What the function returns on stock MLX and with the drop-in. It must return nothing that is still to be evaluated."""
    with stock():
        theirs = function()
    with ours(*products, pack=pack):
        return theirs, function()


def assert_trains_as_with_stock(layer: Any, x: mx.array, operator: str) -> set[str]:
    """Compare the gradients of a layer's parameters. The operator must run. Return the names of the parameters."""
    layer.train()
    mx.eval(layer.parameters(), x)
    gradient = nn.value_and_grad(layer, lambda x: (layer(x, None) ** 2).sum())

    def gradients() -> tuple[mx.array, dict[str, mx.array]]:
        value, of_parameters = gradient(x)
        mx.eval(value, of_parameters)
        return value, dict(tree_flatten(of_parameters))

    (theirs, expected), (loss, found) = both(gradients, operator)
    assert mx.allclose(loss, theirs, rtol=1e-4)
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        assert mx.abs(wanted).max().item() > 0, name
        assert mx.allclose(found[name], wanted, rtol=1e-3, atol=1e-4 * mx.abs(wanted).max().item()), name
    return set(found)


def assert_same_derivatives(ours: Function, theirs: Function, arrays: list[mx.array]) -> None:
    """Compare the derivatives of recurrences of at most some hundred tokens, in both modes, by all arrays.

    Each derivative is a sum of at most some thousand rounded terms, in another order. No term is much above the largest sum.
    """
    argnums = tuple(range(len(arrays)))

    def squares(function: Function) -> Callable[..., mx.array]:
        return lambda *arrays: sum((result**2).sum() for result in function(*arrays))

    gradients = [mx.grad(squares(function), argnums)(*arrays) for function in (ours, theirs)]
    tangents = [mx.jvp(function, arrays, [mx.ones_like(a) for a in arrays])[1] for function in (ours, theirs)]
    for derivatives in (gradients, tangents):
        for a, b in zip(*derivatives, strict=True):
            assert mx.allclose(a, b, rtol=0, atol=2000 * 2.0**-24 * mx.abs(b).max().item())


def evaluated(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32))


def size_of(logits: np.ndarray) -> float:
    """The root mean square of logits. Some models exclude tokens, whose logits are -inf."""
    return float(np.sqrt(np.mean(logits[np.isfinite(logits)] ** 2)))


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: float | np.ndarray) -> None:
    assert actual.shape == expected.shape
    same_infinity = np.isinf(expected) & (actual == expected)
    error = np.abs(np.where(same_infinity, 0, actual) - np.where(same_infinity, 0, expected))
    allowed = np.broadcast_to(tolerance, expected.shape)
    worst = np.unravel_index((error - allowed).argmax(), error.shape)  # a NaN, if there is one
    at = tuple(map(int, worst))
    assert error[worst] <= allowed[worst], (
        f"at {at}: {actual[worst]!r}, stock {expected[worst]!r}: {error[worst]:.2g} apart, more than {allowed[worst]:.2g}"
    )


def build(family: Family, **changes: Any) -> nn.Module:
    """Make the model with random weights; `changes` of its configuration come last."""
    try:
        module = importlib.import_module(f"mlx_lm.models.{family.module}")
    except ModuleNotFoundError:
        pytest.skip(f"mlx-lm {mlx_lm.__version__} has no model {family.module}")
    mx.random.seed(23)
    model = module.Model(module.ModelArgs.from_dict(family.full_config(**changes)))

    def random(parameter: mx.array) -> mx.array:
        """In place of what starts constant: all zeros, as biases and some routers do, or all ones, as norms do."""
        if parameter.dtype == mx.uint32 and not mx.any(parameter).item():  # the codes of a layer that is quantized from the start
            return mx.array(np.random.default_rng(23).integers(2**32, size=parameter.shape, dtype=np.uint32))
        if not mx.issubdtype(parameter.dtype, mx.floating) or mx.any(parameter != parameter.reshape(-1)[0]).item():
            return parameter
        size = 0.1 if parameter.ndim <= 1 else parameter.shape[-1] ** -0.5
        return parameter + size * mx.random.normal(parameter.shape)

    model.update(tree_unflatten([(name, random(parameter)) for name, parameter in tree_flatten(model.parameters())]))
    if family.others:
        # As in the checkpoints of mlx-community: the experts as they were published, and all else in 8 bits.
        nn.quantize(model, **family.quantization, class_predicate=lambda _, layer: isinstance(layer, SwitchLinear))
        nn.quantize(model, **family.others)
    elif family.quantization:
        quantize_model(model, {}, **family.quantization)
    model.eval()
    mx.eval(model.parameters())
    return model


def terms(model: nn.Module) -> int:
    """How many products of two numbers are summed on the way from a token to a logit: K of each matrix, and of each norm."""
    total = 0
    for _, layer in model.named_modules():
        if "scales" in layer:
            total += layer.scales.shape[-1] * layer.group_size
        elif isinstance(layer, (nn.Linear, SwitchLinear)) or "Norm" in type(layer).__name__:
            total += layer.weight.shape[-1] if "weight" in layer else 0
    return total


def tolerance_of(expected: np.ndarray, summed_terms: int, unit: float = 2**-24) -> float:
    """How far two sides may be apart that round by up to `unit` of each number.

    A sum of K random terms is a random walk: after k of them it is √(k/K) of its size in the end. Each addition rounds it by up
    to a unit of its size, in the root mean square by unit/√3 of it, and all together by unit·√(K/6) of the result. Norms and
    residual sums hand a matrix's relative error on to the result, no greater than it was, where the errors of all matrices meet:
    unit·√(ΣK/6) on each of the two sides. No more than one result in 500 million is 6 root mean squares off.
    """
    return 6 * math.sqrt(2) * unit * math.sqrt(summed_terms / 6) * size_of(expected)
