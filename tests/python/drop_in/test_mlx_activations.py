"""Activations through MLX: values and transforms, and the functions of MLX and mlx-lm that install() replaces."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

pytest.importorskip("mlx_lm")
pytest.importorskip("gqmm.mlx")

import gqmm
import gqmm.mlx as drop_in
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models import activations as of_mlx_lm
from mlx_lm.models import gemma4_text, kimi_k3, llama4_text, nemotron, step3p5
from mlx_lm_support import evaluated, stock

pytestmark = pytest.mark.mlx

DTYPES = [mx.float32, mx.float16, mx.bfloat16]
UNIT = {mx.float32: 2.0**-24, mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}


def counts():
    calls = drop_in.status().calls["activations"]
    return calls.ours, calls.stock


def operands(dtype=mx.float32, shape=(3, 5, 40)):
    keys = mx.random.split(mx.random.key(9), 2)
    return [(2 * mx.random.normal(shape, key=key)).astype(dtype) for key in keys]


# Calls of functions that are looked up when they run, and the activation that each of them is.
FUNCTIONS = {
    "nn.silu": (lambda g, u: nn.silu(g), gqmm.SiLU()),
    "nn.SiLU": (lambda g, u: nn.SiLU()(g), gqmm.SiLU()),
    "nn.gelu": (lambda g, u: nn.gelu(g), gqmm.GELU()),
    "nn.GELU": (lambda g, u: nn.GELU()(g), gqmm.GELU()),
    "nn.gelu_approx": (lambda g, u: nn.gelu_approx(g), gqmm.GELU("tanh")),
    "nn.GELU of tanh": (lambda g, u: nn.GELU("precise")(g), gqmm.GELU("tanh")),
    "nn.relu2": (lambda g, u: nn.relu2(g), gqmm.ReLU2()),
    "nn.ReLU2": (lambda g, u: nn.ReLU2()(g), gqmm.ReLU2()),
    "swiglu": (lambda g, u: of_mlx_lm.swiglu(g, u), gqmm.SwiGLU()),
    "precise_swiglu": (lambda g, u: of_mlx_lm.precise_swiglu(u, g, u), gqmm.SwiGLU()),
    "swiglu_oai": (lambda g, u: of_mlx_lm.swiglu_oai(g, u), gqmm.SwiGLU(1.702, 7, 1)),
    "swiglu_oai with constants": (lambda g, u: of_mlx_lm.swiglu_oai(g, u, alpha=1.5, limit=1.0), gqmm.SwiGLU(1.5, 1, 1)),
    "gemma4_text.geglu": (lambda g, u: gemma4_text.geglu(g, u), gqmm.GeGLU("tanh")),
    "step3p5.clamped_swiglu": (lambda g, u: step3p5.clamped_swiglu(u, g, 1.5), gqmm.SwiGLUStep(1.5)),
    "kimi_k3._situ": (lambda g, u: kimi_k3._situ(u, g, 2.0, 3.0), gqmm.SiTU(2, 3)),
    "kimi_k3._situ without linear_beta": (lambda g, u: kimi_k3._situ(u, g, 2.0, None), gqmm.SiTU(2)),
    "nemotron.relu_squared": (lambda g, u: nemotron.relu_squared(g), gqmm.ReLU2()),
}
GATED = (gqmm.SwiGLU, gqmm.GeGLU, gqmm.SiTU, gqmm.SwiGLUStep)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_replaced_and_restored(name, dtype):
    function, activation = FUNCTIONS[name]
    gate, up = operands(dtype)
    with stock():
        exact = evaluated(function(gate.astype(mx.float32), up.astype(mx.float32)))
    before = counts()
    with drop_in.install(only=["activations"]):
        ours = function(gate, up)
        assert drop_in.status().operators == ("activations",)
        assert counts() == (before[0] + 1, before[1])
    assert (ours.dtype, ours.shape) == (dtype, gate.shape)
    direct = drop_in.activate(gate, up if isinstance(activation, GATED) else None, activation)
    assert mx.array_equal(ours, direct)
    of_numpy = gqmm.activate(evaluated(gate), evaluated(up) if isinstance(activation, GATED) else None, activation)
    # Ours is rounded once more, to the type. Stock's float32 has some roundings of numbers below 60.
    np.testing.assert_allclose(evaluated(ours), of_numpy, rtol=UNIT[dtype], atol=2.0**-25)
    np.testing.assert_allclose(evaluated(ours), exact, rtol=UNIT[dtype] + 1e-5, atol=2e-5)
    with stock():
        function(gate, up)


def test_what_gqmm_does_not_serve_is_stocks():
    integers, (gate, up) = mx.arange(6), operands()
    calls = [
        lambda: nn.silu(integers),
        lambda: of_mlx_lm.swiglu(gate, up[:1]),  # broadcasts
        lambda: of_mlx_lm.swiglu(gate, up.astype(mx.float16)),
        lambda: of_mlx_lm.precise_swiglu(up.astype(mx.bfloat16), gate, up[:1]),
        lambda: of_mlx_lm.swiglu_oai(gate, up, limit=0.0),
        lambda: of_mlx_lm.swiglu_oai(gate, up, alpha=mx.array(2.0)),
    ]
    with stock():
        expected = [evaluated(call()) for call in calls]
    before = counts()
    with drop_in.install(only=["activations"]):
        for call, result in zip(calls, expected, strict=True):
            np.testing.assert_allclose(evaluated(call()), result, atol=1e-5, rtol=2e-3)
        assert counts()[1] == before[1] + len(calls)
        # A mean of types that precise_swiglu converts itself.
        mixed = of_mlx_lm.precise_swiglu(up.astype(mx.bfloat16), gate, up.astype(mx.float16))
        assert mixed.dtype == mx.bfloat16
        assert counts()[1] == before[1] + len(calls)
    for wrong, why in (
        (lambda: drop_in.activate(gate, None, gqmm.SwiGLU()), "up is missing but SwiGLU is gated"),
        (lambda: drop_in.activate(gate, up[:1], gqmm.SwiGLU()), "both must have one shape and one type"),
        (lambda: drop_in.activate(integers, None, gqmm.SiLU()), "gate"),
    ):
        with pytest.raises(ValueError, match=why):
            wrong()
    with pytest.raises(TypeError, match="expected an activation such as"):
        drop_in.activate(gate, None, "silu")


def test_names_that_models_bound_are_replaced_and_restored():
    program = """
import sys
import gqmm.mlx
if sys.argv[1] == "before":
    import mlx_lm.models.qwen3
gqmm.mlx.install()
assert "mlx_lm" not in sys.modules or sys.argv[1] == "before"
import mlx.nn as nn
from mlx_lm.models import activations, qwen3
import mlx_lm.models.llama
import mlx_lm.models.switch_layers
modules = (activations, qwen3, mlx_lm.models.llama, mlx_lm.models.switch_layers)
ours, silu = activations.swiglu, nn.silu
assert all(module.swiglu is ours for module in modules)
assert nn.layers.activations.silu is nn.layers.silu is silu
gqmm.mlx.uninstall()
assert not any(module.swiglu is ours for module in modules)
assert all(module.swiglu is activations.swiglu for module in modules)
assert nn.layers.activations.silu is nn.layers.silu is nn.silu is not silu
with gqmm.mlx.install(without=["activations"]):
    assert nn.silu is not silu
with gqmm.mlx.install():
    assert all(module.swiglu is ours for module in modules)
    assert nn.silu is silu
"""
    for when in ("before", "after"):
        subprocess.run([sys.executable, "-c", program, when], check=True)


def test_tables_and_default_arguments_of_models_are_replaced_and_restored():
    tables = importlib.import_module("mlx_lm.models.nemotron-nas")._ACT2FN
    defaults = llama4_text.MLP.__init__
    stock_gelu, stock_silu = nn.gelu_approx, nn.silu
    with drop_in.install():
        assert tables["silu"] is defaults.__defaults__[0] is nn.silu is not stock_silu
        assert tables["gelu_new"] is tables["gelu_fast"] is nn.gelu_approx is not stock_gelu
        assert tables["relu"] is nn.relu
    assert tables["silu"] is defaults.__defaults__[0] is nn.silu is stock_silu
    assert tables["gelu_new"] is tables["gelu_fast"] is nn.gelu_approx is stock_gelu


def test_a_name_that_a_program_kept_is_stocks_after_uninstall():
    gate, up = operands()
    with drop_in.install():
        kept = of_mlx_lm.swiglu
    with stock():
        assert mx.array_equal(kept(gate, up), of_mlx_lm.swiglu(gate, up))


@pytest.mark.parametrize("activation", [gqmm.SwiGLU(), gqmm.GeGLU(), gqmm.SiLU(), gqmm.GELU("tanh")], ids=repr)
def test_transforms(activation):
    arrays = operands(shape=(3, 16))[: 2 if isinstance(activation, GATED) else 1]

    def ours(*arrays):
        return drop_in.activate(arrays[0], arrays[1] if len(arrays) > 1 else None, activation)

    def theirs(gate, up=1):
        match activation:
            case gqmm.SwiGLU():
                return gate * mx.sigmoid(gate) * up
            case gqmm.GeGLU():
                return gate * (1 + mx.erf(gate / 2**0.5)) / 2 * up
            case gqmm.SiLU():
                return gate * mx.sigmoid(gate)
        return 0.5 * gate * (1 + mx.tanh((2 / np.pi) ** 0.5 * (gate + 0.044715 * gate**3)))

    argnums = tuple(range(len(arrays)))
    gradients = (mx.grad(lambda *a, f=f: (f(*a) ** 2).sum(), argnums)(*arrays) for f in (ours, theirs))
    for a, b in zip(*gradients, strict=True):
        assert mx.allclose(a, b, atol=1e-4, rtol=1e-5)
    tangents = [mx.ones_like(a) for a in arrays]
    assert mx.allclose(mx.jvp(ours, arrays, tangents)[1][0], mx.jvp(theirs, arrays, tangents)[1][0], atol=1e-4)
    expected = ours(*arrays)
    for shapeless in (False, True):
        compiled = mx.compile(lambda *a: 2 * ours(*a), shapeless=shapeless)
        assert mx.array_equal(compiled(*arrays), 2 * expected)
        assert mx.array_equal(compiled(*(a[:2] for a in arrays)), 2 * expected[:2])
    assert mx.array_equal(mx.vmap(ours)(*arrays), expected)
    assert mx.array_equal(mx.vmap(ours, in_axes=1, out_axes=1)(*arrays), expected)
    if len(arrays) == 2:
        one = mx.vmap(ours, in_axes=(0, None))(arrays[0], arrays[1][1])
        assert mx.array_equal(one[2], ours(arrays[0][2], arrays[1][1]))
    assert mx.vmap(ours)(*(a[:0] for a in arrays)).shape == (0, 16)


def test_modules_that_run_twice_are_restored():
    program = """
import importlib
import mlx.nn as nn, mlx.nn.layers.activations as of_mlx
import gqmm.mlx
own, call = nn.silu, nn.SiLU.__call__
with gqmm.mlx.install(only=["activations"]):
    ours = nn.silu
    assert ours is not own
    importlib.reload(of_mlx)
assert not hasattr(nn.silu, "__wrapped__") and not hasattr(of_mlx.silu, "__wrapped__")
with gqmm.mlx.install(only=["activations"]):
    assert of_mlx.silu.__wrapped__ is not None
    assert not hasattr(of_mlx.silu.__wrapped__, "__wrapped__"), "gqmm's function around gqmm's function"
assert not hasattr(nn.silu, "__wrapped__") and not hasattr(of_mlx.silu, "__wrapped__")
assert nn.SiLU.__call__ is call
"""
    subprocess.run([sys.executable, "-c", program], check=True)
