"""Convolutions through MLX: values and gradients against stock, bits, transforms, and the calls that stay MLX's own."""

from __future__ import annotations

import pytest

pytest.importorskip("mlx_lm")
pytest.importorskip("gqmm.mlx")

import gqmm
import gqmm.mlx as drop_in
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from families import FAMILIES, VOCABULARY, Family
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm_support import assert_close, both, build, evaluated, terms, tolerance_of

pytestmark = pytest.mark.mlx

stock_conv1d, stock_conv_general = mx.conv1d, mx.conv_general
DTYPES = [mx.float32, mx.float16, mx.bfloat16]
B, L, C, K = 2, 23, 40, 4


@pytest.fixture(autouse=True)
def _seed():
    mx.random.seed(7)


def counts():
    calls = drop_in.status().calls["conv1d"]
    return calls.ours, calls.stock


def operands(dtype=mx.float32):
    return mx.random.normal((B, L, C)).astype(dtype), mx.random.normal((C, K, 1)).astype(dtype)


def far_from(ours, stock, x, weight, **options):
    """The largest error in units of the bound. Stock may round 2 · K times to the type, and ours once."""
    x, weight = abs(x.astype(mx.float32)), abs(weight.astype(mx.float32))
    sums = stock_conv1d(x, weight, groups=C, **options)
    unit = mx.finfo(ours.dtype).eps / 2
    bound = (2 * K + 1) * unit * sums + 2 * K * 2.0**-24
    return mx.max(abs(ours.astype(mx.float32) - stock.astype(mx.float32)) / bound).item()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "options", [{}, {"padding": 3}, {"stride": 2}, {"dilation": 3}, {"stride": 3, "padding": 2, "dilation": 2}]
)
def test_values(dtype, options):
    x, weight = operands(dtype)
    before = counts()
    ours = drop_in.conv1d(x, weight, groups=C, **options)
    assert counts() == (before[0] + 1, before[1])
    stock = stock_conv1d(x, weight, groups=C, **options)
    assert (ours.dtype, ours.shape) == (stock.dtype, stock.shape)
    assert far_from(ours, stock, x, weight, **options) <= 1
    as_numpy = gqmm.depthwise_conv1d(*(np.array(a.astype(mx.float32)) for a in (x, weight)), **options)
    assert mx.array_equal(ours, mx.array(as_numpy).astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_conv_general(dtype):
    x, weight = operands(dtype)
    plain = drop_in.conv1d(x, weight, groups=C)
    padded = drop_in.conv1d(mx.pad(x, [(0, 0), (K - 1, 0), (0, 0)]), weight, groups=C)
    before = counts()
    assert mx.array_equal(drop_in.conv_general(x, weight, groups=C), plain)
    assert mx.array_equal(drop_in.conv_general(x, weight, [1], [0], [1], [1], C, False), plain)
    assert mx.array_equal(drop_in.conv_general(x, weight, (), ((), ()), groups=C), plain)
    assert mx.array_equal(drop_in.conv_general(x, weight, padding=([K - 1], [0]), groups=C), padded)
    assert counts() == (before[0] + 4, before[1])
    stock = stock_conv_general(x, weight, padding=([K - 1], [0]), groups=C)
    assert far_from(padded[:, K - 1 :], stock[:, K - 1 :], x, weight) <= 1


def test_the_layer_of_mlx_and_its_gradients():
    layer = nn.Conv1d(C, C, K, groups=C)
    x, _ = operands()

    def loss(parameters, x):
        layer.update(parameters)
        return (layer(x) ** 2).sum()

    stock, stock_gradients = layer(x), mx.grad(loss, (0, 1))(layer.parameters(), x)
    before = counts()
    with drop_in.install(only=["conv1d"]):
        assert drop_in.status().operators == ("conv1d",)
        assert mx.conv1d is drop_in.conv1d
        assert mx.conv_general is drop_in.conv_general
        ours, gradients = layer(x), mx.grad(loss, (0, 1))(layer.parameters(), x)
    assert mx.conv1d is stock_conv1d
    assert mx.conv_general is stock_conv_general
    assert counts() == (before[0] + 2, before[1])
    assert far_from(ours, stock, x, layer.weight) <= 1
    for name in ("weight", "bias"):
        assert mx.allclose(gradients[0][name], stock_gradients[0][name], rtol=1e-5, atol=1e-4)
    assert mx.allclose(gradients[1], stock_gradients[1], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_stocks(dtype):
    x, weight = operands(dtype)
    cotangent = mx.random.normal((B, L + 1 - K, C)).astype(dtype)
    before = counts()
    ours = mx.vjp(lambda *arrays: drop_in.conv1d(*arrays, groups=C), [x, weight], [cotangent])[1]
    assert counts() == (before[0] + 1, before[1])
    stock = mx.vjp(lambda *arrays: stock_conv1d(*arrays, groups=C), [x, weight], [cotangent])[1]
    for a, b in zip(ours, stock, strict=True):
        assert a.dtype == b.dtype
        assert mx.array_equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_and_batches_have_the_bits_of_the_whole(dtype):
    x, weight = operands(dtype)
    whole = drop_in.conv1d(x, weight, groups=C)
    for chunk in (1, 3, 16):
        parts = [drop_in.conv1d(x[:, t : t + chunk + K - 1], weight, groups=C) for t in range(0, L + 1 - K, chunk)]
        assert mx.array_equal(mx.concatenate(parts, axis=1), whole)
    for b in range(B):
        assert mx.array_equal(drop_in.conv1d(x[b : b + 1], weight, groups=C), whole[b : b + 1])
    columns = mx.contiguous(x.swapaxes(1, 2)).swapaxes(1, 2)
    assert mx.array_equal(drop_in.conv1d(columns, mx.contiguous(weight.swapaxes(0, 1)).swapaxes(0, 1), groups=C), whole)


def test_threads_change_no_bit():
    x, weight = mx.random.normal((1, 300, 1024)), mx.random.normal((1024, K, 1))
    threads = gqmm.get_num_threads()
    try:
        results = []
        for count in (1, 2, 5):
            gqmm.set_num_threads(count)
            results.append(drop_in.conv1d(x, weight, groups=1024))
            mx.eval(results)
    finally:
        gqmm.set_num_threads(threads)
    assert all(mx.array_equal(y, results[0]) for y in results)


def test_transforms():
    x, weight = operands()

    def convolve(x, weight):
        return drop_in.conv1d(x, weight, 1, 1, groups=C)

    expected = convolve(x, weight)
    assert mx.array_equal(mx.compile(convolve)(x, weight), expected)
    shapeless = mx.compile(convolve, shapeless=True)
    assert mx.array_equal(shapeless(x, weight), expected)
    assert mx.array_equal(shapeless(x[:, :9], weight), convolve(x[:, :9], weight))
    for axes in [(0, 0), (0, None), (None, 0), (1, None)]:
        batch = [a if axis is None else mx.stack([a, 2 * a, a - 1], axis) for a, axis in zip((x, weight), axes, strict=True)]
        before = counts()
        together = mx.vmap(convolve, axes)(*batch)
        assert counts()[1] == before[1]
        for i in range(3):
            one = [a if axis is None else mx.take(a, i, axis) for a, axis in zip(batch, axes, strict=True)]
            assert mx.array_equal(together[i], convolve(*one))
    with pytest.raises(ValueError, match="Not implemented for Convolution"):  # stock's has no jvp either
        mx.jvp(convolve, [x, weight], [x, weight])


def test_what_gqmm_does_not_serve_is_stocks():
    x, weight = operands()
    others = [
        (drop_in.conv1d, stock_conv1d, (x, mx.random.normal((6, K, C))), {}),
        (drop_in.conv1d, stock_conv1d, (x, mx.random.normal((C, K, 2))), {"groups": C // 2}),
        (drop_in.conv1d, stock_conv1d, (x, mx.random.normal((2 * C, K, 1))), {"groups": C}),
        (drop_in.conv1d, stock_conv1d, (x, weight), {"groups": C, "padding": -1}),
        (drop_in.conv_general, stock_conv_general, (x, weight), {"groups": C, "flip": True}),
        (drop_in.conv_general, stock_conv_general, (x, weight), {"groups": C, "input_dilation": 2}),
        (drop_in.conv_general, stock_conv_general, (mx.ones((1, 5, 5, 3)), mx.ones((2, 3, 3, 3))), {"stride": [2, 1]}),
    ]
    before = counts()
    for ours, stock, arrays, options in others:
        assert mx.array_equal(ours(*arrays, **options), stock(*arrays, **options))
    assert counts() == (before[0], before[1] + len(others))
    before = counts()
    for message, arguments in [
        ("Spatial dimensions of input after padding cannot be smaller", (x[:, :2], weight, 1, 0, 1, C)),
        ("Stride sizes must be positive", (x, weight, 0, 0, 1, C)),
        ("Invalid input array with type int32", (x.astype(mx.int32), weight.astype(mx.int32), 1, 0, 1, C)),
        ("Can only handle groups != 1", (x[0], weight, 1, 0, 1, C)),
    ]:
        with pytest.raises(ValueError, match=message):  # MLX's own error
            drop_in.conv1d(*arguments)
    assert counts() == (before[0], before[1] + 4)
    for function in (drop_in.conv1d, drop_in.conv_general):
        with pytest.raises(ValueError, match="groups = 0 is not positive; pass 1, or the number of channels"):
            function(x, weight, groups=0)


# One model calls mx.conv1d through nn.Conv1d, the other mx.conv_general.
RECURRENT_GEMMA = Family(
    "recurrent_gemma",
    {"conv1d_width": 4, "logits_soft_cap": 30.0, "attention_window_size": 32, "block_types": ["recurrent", "attention"]},
    expert_layers=0,
)


@pytest.mark.parametrize("family", [FAMILIES["qwen3_next"], RECURRENT_GEMMA], ids=lambda family: family.module)
def test_models(family):
    model = build(family)
    tokens = mx.random.randint(0, VOCABULARY, (2, 12))

    def logits():
        cache = make_prompt_cache(model)
        return np.concatenate([evaluated(model(piece, cache=cache)) for piece in (tokens[:, :10], tokens[:, 10:])], axis=1)

    stock, ours = both(logits, "conv1d")
    assert_close(ours, stock, tolerance_of(stock, terms(model)))
