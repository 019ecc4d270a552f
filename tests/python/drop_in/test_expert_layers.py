"""moe_ffn over arrays of MLX, and mlx-lm's expert layers that become one."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("mlx_lm")
pytest.importorskip("gqmm.mlx")

import gqmm
import gqmm.mlx as drop_in
import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import switch_layers
from mlx_lm.models.activations import SwigluOAI
from mlx_lm.tuner.lora import LoRASwitchLinear
from mlx_lm_support import evaluated

pytestmark = pytest.mark.mlx

E, H, I, TOKENS, K = 6, 128, 64, 5, 3  # noqa: E741


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def quantized(rng, outputs, inputs, library):
    dense = rng.standard_normal((E, outputs, inputs), dtype=np.float32) / np.float32(np.sqrt(inputs))
    parts = gqmm.quantize(dense, group_size=32, bits=4)
    if library == "mlx":
        parts = tuple(map(mx.array, parts))
    return gqmm.QuantizedWeights(*parts, group_size=32, bits=4)


class Case:
    """The same operands for NumPy and for MLX."""

    def __init__(self, rng):
        self.x = rng.standard_normal((TOKENS, H), dtype=np.float32)
        self.ids = rng.integers(0, E, (TOKENS, K)).astype(np.int32)
        self.weights = rng.random((TOKENS, K), dtype=np.float32)
        state = rng.bit_generator.state
        self.layers = {}
        for library in ("numpy", "mlx"):
            rng.bit_generator.state = state
            shapes = ((I, H), (I, H), (H, I))
            self.layers[library] = [quantized(rng, *shape, library) for shape in shapes]

    def ours(self, **changes):
        return gqmm.moe_ffn(self.x, self.ids, self.weights, *self.layers["numpy"], **changes)

    def of_mlx(self, x=None, weights=None, layers=None, **changes):
        x = mx.array(self.x) if x is None else x
        weights = mx.array(self.weights) if weights is None else weights
        return drop_in.moe_ffn(x, mx.array(self.ids), weights, *(layers or self.layers["mlx"]), **changes)


@pytest.fixture
def case(rng):
    return Case(rng)


def test_has_the_bits_of_gqmm(case):
    assert np.array_equal(np.array(case.of_mlx()), case.ours())
    for changes in ({"precision": "fast"}, {"activation": gqmm.GeGLU("tanh")}, {"local_experts": (0, E)}):
        assert np.array_equal(np.array(case.of_mlx(**changes)), case.ours(**changes))
    case.ids[0] = -1
    assert np.array_equal(np.array(case.of_mlx(missing="zero")), case.ours(missing="zero"))
    with pytest.raises(RuntimeError, match=r"topk_ids\[0, 0\] = -1 is out of range"):
        mx.eval(case.of_mlx())


def test_is_lazy_and_checks_shapes_at_once(case):
    with pytest.raises(ValueError, match=r"x has shape \(5, 64\) but|gate has shape"):
        case.of_mlx(x=mx.zeros((TOKENS, 64)))
    with pytest.raises(TypeError, match="gate: expected"):
        case.of_mlx(layers=["gate", *case.layers["mlx"][1:]])
    with pytest.raises(TypeError, match="activation: expected"):
        case.of_mlx(activation="silu")


def test_transforms(case):
    y = case.of_mlx()
    assert np.array_equal(np.array(mx.compile(lambda x: case.of_mlx(x=x))(mx.array(case.x))), np.array(y))
    batch = mx.stack([mx.array(case.x), 2 * mx.array(case.x)])
    mapped = mx.vmap(lambda x: case.of_mlx(x=x))(batch)
    assert np.array_equal(np.array(mapped[1]), np.array(case.of_mlx(x=batch[1])))
    on_axis_1 = mx.vmap(lambda x: case.of_mlx(x=x), in_axes=1)(mx.swapaxes(batch, 0, 1))
    assert np.array_equal(np.array(on_axis_1), np.array(mapped))


# Central differences of the float32 forward, whose rounding errors are far below the steps.
def test_gradients_are_those_of_finite_differences(case, rng):
    direction = mx.array(rng.standard_normal((TOKENS, H), dtype=np.float32))

    def loss(x, weights):
        return (case.of_mlx(x=x, weights=weights) * direction).sum()

    x, weights = mx.array(case.x), mx.array(case.weights)
    gradients = mx.grad(loss, argnums=(0, 1))(x, weights)
    for i, operand in enumerate((x, weights)):
        step = mx.array(rng.standard_normal(operand.shape, dtype=np.float32)) * 1e-2
        moved = [[x, weights], [x, weights]]
        moved[0][i], moved[1][i] = operand + step, operand - step
        expected = (loss(*moved[0]) - loss(*moved[1])).item() / 2
        assert (gradients[i] * step).sum().item() == pytest.approx(expected, rel=2e-3)
        tangents = [mx.zeros_like(x), mx.zeros_like(weights)]
        tangents[i] = step
        _, forward = mx.jvp(lambda x, weights: [loss(x, weights)], [x, weights], tangents)
        assert forward[0].item() == pytest.approx(expected, rel=2e-3)


def test_ids_have_no_gradient(case):
    with pytest.raises((RuntimeError, ValueError)):
        mx.eval(mx.grad(lambda ids: drop_in.moe_ffn(mx.array(case.x), ids, None, *case.layers["mlx"]).sum())(mx.array(case.ids)))


def test_moe_combine(case, rng):
    slots = rng.standard_normal((TOKENS, K, H), dtype=np.float32)
    y = drop_in.moe_combine(mx.array(slots), mx.array(case.weights))
    assert np.array_equal(np.array(y), gqmm.moe_combine(slots, case.weights))
    mapped = mx.vmap(drop_in.moe_combine, in_axes=(0, None))(mx.array(slots), mx.array(case.weights[0]))
    assert np.array_equal(np.array(mapped[2]), gqmm.moe_combine(slots[2], case.weights[0]))
    dy = rng.standard_normal((TOKENS, H), dtype=np.float32)
    _, (d_slots, d_weights) = mx.vjp(drop_in.moe_combine, [mx.array(slots), mx.array(case.weights)], [mx.array(dy)])
    np.testing.assert_allclose(np.array(d_slots), case.weights[..., None] * dy[:, None], rtol=1e-6)
    np.testing.assert_allclose(np.array(d_weights), np.einsum("tkh,th->tk", slots, dy), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="it must be"):
        drop_in.moe_combine(mx.array(slots), mx.zeros((TOKENS, K + 1)))


def test_grouped_products(case, rng):
    ends = np.array([1, 1, 3, 4, 5, 5], np.int32)
    ours, weights = case.layers["numpy"][0], case.layers["mlx"][0]
    b = rng.standard_normal((E, H, I), dtype=np.float32)
    x = mx.array(case.x)
    assert np.array_equal(np.array(drop_in.grouped_qmm(x, weights, mx.array(ends))), gqmm.grouped_qmm(case.x, ours, ends))
    assert np.array_equal(np.array(drop_in.grouped_mm(x, mx.array(b), mx.array(ends))), gqmm.grouped_mm(case.x, b, ends))
    fewer = mx.array(np.minimum(ends, 3))
    x[4] = mx.nan
    y = np.array(drop_in.grouped_qmm(x, weights, fewer, rows="zero"))
    assert not y[3:].any()
    assert np.array_equal(y[:3], gqmm.grouped_qmm(case.x, ours, np.minimum(ends, 3), rows="zero")[:3])

    def loss(x, b):
        return drop_in.grouped_mm(x, b, fewer, rows="zero").sum()

    d_x, d_b = mx.grad(loss, argnums=(0, 1))(x, mx.array(b))
    assert not np.array(d_x)[3:].any()
    expected = gqmm.grouped_mm_vjp(np.ones((3, I), np.float32), case.x[:3], b, np.minimum(ends, 3))
    np.testing.assert_allclose(np.array(d_x)[:3], expected["x"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.array(d_b), expected["b"], rtol=1e-5, atol=1e-5)
    for wrong in (ends[::-1].copy(), np.minimum(ends, 3), ends + 1):
        with pytest.raises(RuntimeError, match="grouped_mm"):
            mx.eval(drop_in.grouped_mm(x, mx.array(b), mx.array(wrong)))
    with pytest.raises(ValueError, match=r"x has shape .* must be \(R, K\)"):
        drop_in.grouped_mm(x[None], mx.array(b), fewer)
    with pytest.raises(TypeError, match=r"weights: expected gqmm\.QuantizedWeights"):
        drop_in.grouped_qmm(x, mx.array(b), fewer)


# --- mlx-lm's layers ------------------------------------------------------------------------------------------------------


def activations():
    def of(module, name, *arguments):
        return pytest.param(module, name, arguments, id=f"{name}{arguments}")

    return [
        of("switch_layers", "SwiGLU"),
        of("activations", "SwigluOAI"),
        of("activations", "SwigluOAI", 1.5, 0.5),
        of("muse_spark", "PreciseSwiGLU"),
        of("deepseek_v41", "DeepseekV41SwiGLU", 0.5),
        of("deepseek_v41", "DeepseekV41SwiGLU", 0.0),
        of("step3p5", "ClampedSwiGLU", 0.25),
        of("gemma4_text", "GeGLU"),
        of("kimi_k3", "SiTU", 2.0, 0.5),
        of("kimi_k3", "SiTU", 2.0),
    ]


def run(layer, dtype=mx.float32, seed=1):
    mx.random.seed(seed)
    x = (2 * mx.random.normal((4, TOKENS, H))).astype(dtype)
    ids = mx.random.randint(0, E, (4, TOKENS, K))
    return layer(x, ids)


def assert_fused_like_stock(layer, tolerance=1e-5):
    theirs = run(layer)
    with drop_in.install():
        before = drop_in.status().calls["moe"].ours
        ours = run(layer)
        assert drop_in.status().calls["moe"].ours == before + 1
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    assert np.abs(evaluated(ours) - evaluated(theirs)).max() <= tolerance * np.abs(evaluated(theirs)).max()


def random_layer(kind, activation=None, quantize=True, **settings):
    mx.random.seed(7)
    layer = kind(H, I, E, bias=True, **({} if activation is None else {"activation": activation}))
    for _, linear in layer.leaf_modules().items():
        if "bias" in linear:
            linear.bias = mx.random.normal(linear.bias.shape)
    if quantize:
        nn.quantize(layer, **({"group_size": 32, "bits": 4} | settings))
    return layer


@pytest.mark.parametrize(("module", "name", "arguments"), activations())
def test_gated_activations(module, name, arguments):
    try:
        kind = getattr(importlib.import_module(f"mlx_lm.models.{module}"), name)
    except (ImportError, AttributeError):
        pytest.skip(f"this mlx-lm has no {module}.{name}")
    for quantize in (True, False):
        assert_fused_like_stock(random_layer(switch_layers.SwitchGLU, kind(*arguments), quantize))


@pytest.mark.parametrize("activation", [nn.GELU("none"), nn.GELU("precise"), nn.SiLU(), nn.ReLU2()])
def test_activations_that_are_not_gated(activation):
    assert_fused_like_stock(random_layer(switch_layers.SwitchMLP, activation))


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
def test_other_modes(mode):
    assert_fused_like_stock(random_layer(switch_layers.SwitchGLU, mode=mode, group_size=None, bits=None))


def test_results_have_the_type_of_stock():
    layer = random_layer(switch_layers.SwitchGLU)
    for dtype in (mx.bfloat16, mx.float16):  # the scales are float32
        theirs = run(layer, dtype)
        with drop_in.install():
            assert run(layer, dtype).dtype == theirs.dtype == mx.float32
    layer.set_dtype(mx.bfloat16)
    with drop_in.install():
        assert run(layer, mx.bfloat16).dtype == mx.bfloat16


def test_packed_parameters_and_packed_copies():
    layer = random_layer(switch_layers.SwitchGLU)
    with drop_in.install():
        expected = np.array(run(layer))
    with drop_in.install(pack=True):
        for _ in range(3):
            assert np.array_equal(np.array(run(layer)), expected)
        assert drop_in.status().packed_arrays == 3
    drop_in.pack_model(layer)
    with drop_in.install():
        assert np.array_equal(np.array(run(layer)), expected)
        gradient = mx.grad(lambda x: layer(x, mx.zeros((1, 1), mx.int32)).sum())(mx.ones((1, H)))
        assert np.isfinite(np.array(gradient)).all()
        assert drop_in.status().packed_modules == 3, "a layer was unpacked"


def test_other_layers_stay_and_status_says_why():
    class Odd(nn.Module):
        def __call__(self, x, gate):
            return x * mx.tanh(gate)

    gc.collect()
    odd, trained = random_layer(switch_layers.SwitchGLU, Odd()), random_layer(switch_layers.SwitchGLU)
    trained.up_proj = LoRASwitchLinear.from_base(trained.up_proj)
    fast = random_layer(switch_layers.SwitchMLP, nn.GELU("fast"))
    known = random_layer(switch_layers.SwitchGLU)
    layers = (odd, trained, fast)
    theirs = [np.array(run(layer)) for layer in layers]
    with drop_in.install():
        fused_before, others_before = drop_in.status().fused_layers, drop_in.status().other_layers
        for layer, expected in zip(layers, theirs, strict=True):
            np.testing.assert_allclose(np.array(run(layer)), expected, rtol=1e-4, atol=1e-5)
        run(known)
        status = drop_in.status()
    assert status.fused_layers == fused_before + 1
    new = {why: count - others_before.get(why, 0) for why, count in status.other_layers.items()}
    assert {why for why, count in new.items() if count} == {
        f"its activation is {Odd.__module__}.{Odd.__qualname__}",
        "one of its layers is mlx_lm.tuner.lora.LoRASwitchLinear",
        "its activation is nn.GELU(approx='fast')",
    }
    assert "expert layers of mlx-lm are one moe_ffn each" in str(status)
    del known
    gc.collect()
    assert drop_in.status().fused_layers == fused_before


def test_an_activation_whose_constants_gqmm_refuses_stays():
    layer = random_layer(switch_layers.SwitchGLU, SwigluOAI(limit=float("inf")))
    theirs = np.array(run(layer))
    with drop_in.install():
        np.testing.assert_allclose(np.array(run(layer)), theirs, rtol=1e-4, atol=1e-5)
        reasons = drop_in.status().other_layers
    assert any(why.startswith("its activation is mlx_lm.models.activations.SwigluOAI: ") and "limit" in why for why in reasons)


def test_training_goes_through_the_layer():
    layer = random_layer(switch_layers.SwitchGLU, SwigluOAI())
    x, ids = mx.random.normal((TOKENS, H)), mx.random.randint(0, E, (TOKENS, K))

    def gradient():
        return np.array(mx.grad(lambda x: (layer(x, ids) ** 2).sum())(x))

    theirs = gradient()
    with drop_in.install():
        ours = gradient()
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())


def test_uninstall_restores_the_methods():
    stock = switch_layers.SwitchGLU.__call__
    with drop_in.install(), drop_in.install(precision="fast"):
        assert switch_layers.SwitchGLU.__call__ is not stock
    assert switch_layers.SwitchGLU.__call__ is stock
    drop_in.install()
    drop_in.install()
    drop_in.uninstall()
    assert switch_layers.SwitchGLU.__call__ is stock


LATE = """
import sys
import gqmm.mlx
gqmm.mlx.install()
assert "mlx_lm" not in sys.modules
import importlib.util
import mlx.core as mx
importlib.util.find_spec("mlx_lm.models.switch_layers")
from mlx_lm.models.switch_layers import SwitchGLU
layer = SwitchGLU(64, 32, 4)
mx.eval(layer(mx.ones((1, 64)), mx.zeros((1, 2), mx.int32)))
assert gqmm.mlx.status().fused_layers == 1, gqmm.mlx.status()
gqmm.mlx.uninstall()
assert SwitchGLU.__call__.__qualname__ == "SwitchGLU.__call__"
"""


def test_mlx_lm_may_be_imported_later():
    subprocess.run([sys.executable, "-c", LATE], check=True, timeout=120)
