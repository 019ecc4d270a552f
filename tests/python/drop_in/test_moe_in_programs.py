"""Expert layers of gqmm.mlx as programs use them: many types, streams, threads, errors, empty batches, compiled training."""

from __future__ import annotations

import subprocess
import sys
import threading

import gqmm
import numpy as np
import pytest

drop_in = pytest.importorskip("gqmm.mlx")
mx = pytest.importorskip("mlx.core")
pytestmark = pytest.mark.mlx

E, H, I, TOKENS, K = 6, 64, 32, 5, 3  # noqa: E741
FLOATS = (mx.float32, mx.float16, mx.bfloat16)
INTEGERS = (mx.int8, mx.uint8, mx.int16, mx.uint16, mx.int32, mx.uint32, mx.int64, mx.uint64)


class Layer:
    def __init__(self, rng, dtype=mx.float32):
        def quantized(*shape):
            dense = mx.array(rng.standard_normal(shape, dtype=np.float32)) / 8
            w, scales, biases = mx.quantize(dense, group_size=32, bits=4)
            return gqmm.QuantizedWeights(w, scales.astype(dtype), biases.astype(dtype), group_size=32, bits=4)

        self.gate, self.up, self.down = (quantized(E, *shape) for shape in ((I, H), (I, H), (H, I)))
        self.shared = gqmm.SharedExperts(quantized(I, H), quantized(I, H), quantized(H, I))
        self.x = mx.array(rng.standard_normal((TOKENS, H), dtype=np.float32))
        self.ids = mx.array(rng.integers(0, E, (TOKENS, K)).astype(np.int32))
        self.weights = mx.array(rng.random((TOKENS, K), dtype=np.float32))

    def __call__(self, x=None, ids=None, weights=None, **keywords):
        x, ids = self.x if x is None else x, self.ids if ids is None else ids
        weights = self.weights if weights is None else weights
        return drop_in.moe_ffn(x, ids, weights, self.gate, self.up, self.down, **keywords)

    def gradient(self, *arguments, **keywords):
        x = arguments[0] if arguments else self.x
        return mx.grad(lambda x: (self(x, *arguments[1:], **keywords) ** 2).sum())(x)

    def tangent(self, *arguments, **keywords):
        x = arguments[0] if arguments else self.x
        return mx.jvp(lambda x: self(x, *arguments[1:], **keywords), [x], [mx.ones_like(x)])[1][0]


@pytest.fixture
def layer(rng):
    return Layer(rng)


@pytest.mark.parametrize("of_scales", FLOATS, ids=str)
def test_all_mixes_of_float_types(rng, of_scales):
    """Results have the type of x, and gradients those of their arrays."""
    layer = Layer(rng, of_scales)
    for of_x in FLOATS:
        for of_weights in FLOATS:
            x, weights = layer.x.astype(of_x), layer.weights.astype(of_weights)

            def call(x, weights):
                return layer(x, weights=weights, shared=layer.shared)

            gradients = mx.grad(lambda *a: call(*a).sum(), argnums=(0, 1))(x, weights)
            _, (tangent,) = mx.jvp(call, [x, weights], [x, weights])
            results = (call(x, weights), tangent, *gradients)
            assert [a.dtype for a in results] == [of_x, of_x, of_x, of_weights]
            assert all(mx.isfinite(a).all() for a in results)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("missing", ["error", "zero"])
def test_all_types_of_ids(layer, dtype, missing):
    for call in (layer, layer.gradient, layer.tangent):
        assert mx.array_equal(call(layer.x, layer.ids.astype(dtype), missing=missing), call())


@pytest.mark.parametrize("keywords", [{}, {"missing": "zero"}, {"local_experts": (0, E)}], ids=str)
def test_an_id_beyond_2_to_the_63_is_not_a_negative_one(layer, keywords):
    ids = mx.array(np.full((TOKENS, K), 2**63 + 3, np.uint64))
    for call in (layer, layer.gradient):
        with pytest.raises(RuntimeError, match=r"\[0, 0\] = 92233720368547758(11|07) is out of range"):
            mx.eval(call(layer.x, ids, **keywords))
    if "local_experts" not in keywords:
        with pytest.raises(RuntimeError, match="is out of range"):
            mx.eval(layer.tangent(layer.x, ids, **keywords))


@pytest.mark.parametrize("tokens", [0, TOKENS])
@pytest.mark.parametrize("k", [0, K])
def test_no_tokens_and_no_slots(layer, tokens, k):
    x, ids, weights = layer.x[:tokens], layer.ids[:tokens, :k], layer.weights[:tokens, :k]
    assert layer(x, ids, weights, shared=layer.shared).shape == (tokens, H)
    assert layer.gradient(x, ids, weights, shared=layer.shared).shape == (tokens, H)
    assert layer.tangent(x, ids, weights, shared=layer.shared).shape == (tokens, H)

    def of_scales(scales):
        gate = gqmm.QuantizedWeights(layer.gate.w, scales, layer.gate.biases, group_size=32, bits=4)
        return drop_in.moe_ffn(x, ids, weights, gate, layer.up, layer.down).sum()

    gradient = mx.grad(of_scales)(layer.gate.scales)
    assert gradient.shape == layer.gate.scales.shape
    assert mx.any(gradient != 0).item() == (tokens * k > 0)


def test_checkpoints_and_compiled_functions_of_any_shape(layer):
    expected = layer.gradient(layer.x, shared=layer.shared)
    saved = mx.grad(lambda x: (mx.checkpoint(lambda x: layer(x, shared=layer.shared))(x) ** 2).sum())(layer.x)
    assert mx.array_equal(saved, expected)
    compiled = mx.compile(lambda *arrays: layer(*arrays, shared=layer.shared), shapeless=True)
    gradient = mx.compile(lambda *arrays: layer.gradient(*arrays), shapeless=True)
    for tokens in (TOKENS, 2, 3):
        arrays = (layer.x[:tokens], layer.ids[:tokens], layer.weights[:tokens])
        assert mx.array_equal(compiled(*arrays), layer(*arrays, shared=layer.shared))
        assert mx.allclose(gradient(*arrays), layer.gradient(*arrays), rtol=1e-6, atol=1e-6)


def test_weights_made_inside_a_compiled_function(layer):
    def of_scales(scales):
        gate = gqmm.QuantizedWeights(layer.gate.w, scales, layer.gate.biases, group_size=32, bits=4)
        return drop_in.moe_ffn(layer.x, layer.ids, layer.weights, gate, layer.up, layer.down)

    assert mx.array_equal(mx.compile(of_scales)(layer.gate.scales), layer())


def test_streams_and_asynchronous_evaluation(layer):
    streams = [mx.new_stream(mx.cpu) for _ in range(3)]
    results = [layer(layer.x * i, stream=streams[i % 3], shared=layer.shared) for i in range(12)]
    mx.async_eval(*results)
    for i, y in enumerate(results):
        assert mx.array_equal(y, layer(layer.x * i, shared=layer.shared))


def test_threads(layer):
    expected = [np.array(a) for a in (layer(shared=layer.shared), layer.gradient())]
    wrong = []

    def work():
        stream = mx.new_stream(mx.cpu)
        for _ in range(20):
            results = (layer(shared=layer.shared, stream=stream), layer.gradient(layer.x, stream=stream))
            mx.eval(*results)
            wrong.extend(i for i, y in enumerate(results) if not np.array_equal(np.array(y), expected[i]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


MANY_ERRORS = """
import gqmm.mlx
import mlx.core as mx
import numpy as np
x, dense, ids = mx.ones((2, 8)), mx.ones((3, 8, 8)), mx.zeros((2, 1), mx.int32)
for read in (mx.eval, np.array, lambda a: a.tolist()):
    for shift in (mx.array(13), -mx.array(1)):
        for _ in range(15):
            try:
                read(gqmm.mlx.moe_ffn(x, ids + shift, mx.ones((2, 1)), dense, dense, dense))
            except RuntimeError as error:
                assert "out of range" in str(error), error
            else:
                raise AssertionError("no error")
mx.eval(gqmm.mlx.moe_ffn(x, ids, mx.ones((2, 1)), dense, dense, dense))
"""


def test_any_number_of_errors_stops_nothing():
    """MLX counts a task whose error the main thread finds as active. After ten of them it would wait for ever."""
    subprocess.run([sys.executable, "-c", MANY_ERRORS], check=True, timeout=120)


@pytest.mark.skipif(mx.__version__ == "0.32.1", reason="MLX 0.32.1 takes a failed array for evaluated once it has raised")
def test_wrong_values_that_were_given_raise_each_time(layer):
    ids, offsets, b = mx.full((TOKENS, K), E), mx.array([0, 1, 2, 3, 4, TOKENS + 1]), mx.zeros((E, H, I))
    mx.eval(ids, offsets)
    results = [
        (layer(ids=ids), "topk_ids"),
        (layer.gradient(layer.x, ids), "topk_ids"),
        (mx.exp(layer(ids=ids, shared=layer.shared)), "topk_ids"),
        (drop_in.grouped_mm(layer.x, b, offsets), "offsets"),
        (mx.grad(lambda x: drop_in.grouped_mm(x, b, offsets, rows="zero").sum())(layer.x), "offsets"),
    ]
    for result, name in results:
        for _ in range(3):
            with pytest.raises(RuntimeError, match=rf"{name}\[.*\] = 6 "):
                mx.eval(result)


def test_a_step_of_training_by_adapters_beside_the_experts():
    """Adapters on attention and router train through frozen experts, which are one primitive each. MLX compiles the step."""
    pytest.importorskip("mlx_lm")
    import mlx.nn as nn
    from mlx.utils import tree_flatten
    from mlx_lm.models import qwen3_moe
    from mlx_lm.tuner.trainer import default_loss
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm_support import assert_close, both, evaluated

    mx.random.seed(3)
    config = {
        "model_type": "qwen3_moe",
        "vocab_size": 96,
        "hidden_size": 64,
        "num_hidden_layers": 1,  # MLX compiles each layer by a C++ compiler
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 64,
        "intermediate_size": 64,
        "moe_intermediate_size": 32,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "tie_word_embeddings": False,
        "norm_topk_prob": True,
    }
    model = qwen3_moe.Model(qwen3_moe.ModelArgs.from_dict(config))
    nn.quantize(model, group_size=32, bits=4)
    model.freeze()
    keys = ["self_attn.q_proj", "self_attn.v_proj", "mlp.gate"]
    linear_to_lora_layers(model, 1, {"rank": 4, "scale": 20.0, "dropout": 0.0, "keys": keys})
    model.apply_to_modules(
        lambda _, module: module.update({"lora_b": 0.01 * mx.random.normal(module.lora_b.shape)}) if "lora_b" in module else None
    )
    tokens, lengths = mx.random.randint(0, 96, (2, 13)), mx.array([[0, 13], [0, 9]])
    mx.eval(model.parameters(), tokens)

    def gradients():
        model.train()
        step = mx.compile(lambda tokens, lengths: nn.value_and_grad(model, default_loss)(model, tokens, lengths)[1])
        return {name: evaluated(gradient) for name, gradient in tree_flatten(step(tokens, lengths))}

    theirs, mine = both(gradients, "moe", "quantized_matmul")
    assert len(mine) == 2 * len(keys)
    for name, gradient in mine.items():
        # As in test_checkpoints.py: the root mean square of float32's rounding in sums of 12,000 terms is 3e-6 of a gradient.
        largest = np.abs(theirs[name]).max()
        assert largest > 0, name
        assert_close(gradient / largest, theirs[name] / largest, 6 * 3e-6)
