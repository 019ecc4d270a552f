"""Attention over quantized caches through MLX: values and transforms against mlx-lm's, and whole models."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mlx_lm")
pytest.importorskip("gqmm.mlx")

import gqmm.mlx as drop_in
import mlx.core as mx
from families import FAMILIES
from mlx_lm.generate import generate_step
from mlx_lm.models import base
from mlx_lm.models.cache import KVCache, QuantizedKVCache, make_prompt_cache
from mlx_lm_support import build, evaluated

pytestmark = pytest.mark.mlx

B, HEADS, KV_HEADS, T, L, D = 2, 4, 2, 6, 37, 64
own_of_mlx_lm = base.quantized_scaled_dot_product_attention
NAME = "quantized_scaled_dot_product_attention"


def stock(q, *arguments, **options):
    """Call mlx-lm's own function, which scales its argument q in place, with a copy of q."""
    return own_of_mlx_lm(q + 0, *arguments, **options)


def operands(dtype=mx.float32, bits=8, queries=T, kv_heads=KV_HEADS):
    keys = mx.random.split(mx.random.key(1), 3)
    shapes = [(B, HEADS, queries, D), (B, kv_heads, L, D), (B, kv_heads, L, D)]
    q, k, v = (mx.random.normal(shape, key=key).astype(dtype) for shape, key in zip(shapes, keys, strict=True))
    return q, mx.quantize(k, bits=bits), mx.quantize(v, bits=bits)


def masks():
    return {
        "none": None,
        "causal": "causal",
        "bool": mx.arange(L)[None] <= mx.arange(L - T, L)[:, None],
        "additive": mx.random.normal((B, 1, T, L), key=mx.random.key(7)),
    }


@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("kv_heads", [HEADS, KV_HEADS])
def test_values_are_mlx_lms(mask, bits, kv_heads):
    q, keys, values = operands(bits=bits, kv_heads=kv_heads)
    ours = drop_in.quantized_scaled_dot_product_attention(q, keys, values, scale=D**-0.5, mask=masks()[mask], bits=bits)
    expected = stock(q, keys, values, scale=D**-0.5, mask=masks()[mask], bits=bits)
    assert ours.dtype == expected.dtype
    assert mx.allclose(ours, expected, atol=4e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(mx.float16, 2e-3), (mx.bfloat16, 2e-2)])
def test_half_types_are_closer_to_float32_than_mlx_lms(dtype, tolerance):
    q, keys, values = operands(dtype)
    wide = [tuple(a if a.dtype == mx.uint32 else a.astype(mx.float32) for a in heads) for heads in (keys, values)]
    exact = stock(q.astype(mx.float32), *wide, scale=D**-0.5, mask="causal")

    def error(y):
        assert y.dtype == dtype
        return mx.abs(y.astype(mx.float32) - exact).max().item()

    ours = error(drop_in.quantized_scaled_dot_product_attention(q, keys, values, scale=D**-0.5, mask="causal"))
    assert ours < tolerance
    assert ours < error(stock(q, keys, values, scale=D**-0.5, mask="causal"))


def test_transforms():
    q, keys, values = operands()

    def loss(function):
        def of(q, key_scales, value_biases):
            k, v = (keys[0], key_scales, keys[2]), (values[0], values[1], value_biases)
            return (function(q, k, v, scale=D**-0.5, mask="causal") ** 2).sum()

        return of

    inputs = q, keys[1], values[2]
    ours = mx.grad(loss(drop_in.quantized_scaled_dot_product_attention), argnums=(0, 1, 2))(*inputs)
    expected = mx.grad(loss(stock), argnums=(0, 1, 2))(*inputs)
    for a, b in zip(ours, expected, strict=True):
        assert mx.allclose(a, b, rtol=1e-4, atol=1e-4)

    def call(function):
        return lambda q: function(q, keys, values, scale=0.3, mask=None)

    tangent = [mx.ones_like(q)]
    for a, b in zip(
        mx.jvp(call(drop_in.quantized_scaled_dot_product_attention), [q], tangent),
        mx.jvp(call(stock), [q], tangent),
        strict=True,
    ):
        assert mx.allclose(a[0], b[0], atol=1e-5)
    own = call(drop_in.quantized_scaled_dot_product_attention)
    assert mx.array_equal(mx.compile(own)(q), own(q))
    batched = mx.vmap(own)(mx.stack([q, 2 * q]))
    for i in range(2):
        assert mx.array_equal(batched[i], own((i + 1) * q))


def test_values_may_be_wider_than_keys():
    """mlx-lm's own function takes equal widths alone."""
    q, keys, _ = operands()
    v = mx.random.normal((B, KV_HEADS, L, 2 * D))
    y = drop_in.quantized_scaled_dot_product_attention(q, keys, mx.quantize(v, bits=8), scale=0.2, mask="causal")
    for part in (slice(0, D), slice(D, None)):
        expected = drop_in.quantized_scaled_dot_product_attention(
            q, keys, mx.quantize(v[..., part], bits=8), scale=0.2, mask="causal"
        )
        assert mx.array_equal(y[..., part], expected)


def test_what_gqmm_does_not_serve_is_mlxs():
    q, keys, values = operands()
    before = drop_in.status().calls[NAME]
    integers = mx.ones((T, L), mx.int32)
    assert mx.allclose(
        drop_in.quantized_scaled_dot_product_attention(q, keys, values, scale=1.0, mask=integers),
        stock(q, keys, values, scale=1.0, mask=integers),
        atol=1e-5,
    )
    calls = drop_in.status().calls[NAME]
    assert (calls.ours, calls.stock) == (before.ours, before.stock + 1)
    with pytest.raises(ValueError, match='mask = "casual" is unknown'):
        drop_in.quantized_scaled_dot_product_attention(q, keys, values, scale=1.0, mask="casual")
    with pytest.raises(ValueError, match=r"of 4 bits has shape .*; bits = 8 would fit"):
        drop_in.quantized_scaled_dot_product_attention(q, keys, values, scale=1.0, bits=4, group_size=128)


def test_an_origin_gives_the_bits_of_the_sequence_alone():
    q, keys, values = operands()
    alone = drop_in.quantized_scaled_dot_product_attention(q, keys, values, scale=0.2, mask="causal")
    padding = 11
    padded = [[mx.pad(a, [(0, 0), (0, 0), (padding, 0), (0, 0)]) for a in heads] for heads in (keys, values)]
    positions = mx.arange(L + padding)
    mask = (positions >= padding) & (positions <= mx.arange(L + padding - T, L + padding)[:, None])
    together = drop_in.quantized_scaled_dot_product_attention(
        q, *padded, scale=0.2, mask=mask, origin=mx.full((B,), padding, mx.int32)
    )
    assert mx.array_equal(together, alone)


@pytest.mark.parametrize("only", [[NAME], [NAME, "scaled_dot_product_attention"]])
def test_mlx_lms_function_is_replaced_and_restored(only):
    q, k, v = (mx.random.normal((1, HEADS, 3, D)) for _ in range(3))
    cache = QuantizedKVCache()
    heads = cache.update_and_fetch(k, v)
    expected = drop_in.quantized_scaled_dot_product_attention(q, *heads, scale=0.2, mask="causal")
    with drop_in.install(only=only):
        before = drop_in.status()
        y = base.scaled_dot_product_attention(q, *heads, cache=cache, scale=0.2, mask="causal")
        assert mx.array_equal(y, expected)
        with pytest.raises(ValueError, match="sinks"):
            base.scaled_dot_product_attention(q, *heads, cache=cache, scale=0.2, mask=None, sinks=mx.ones((HEADS,)))
        kept = base.quantized_scaled_dot_product_attention
        assert kept is not own_of_mlx_lm
        status = drop_in.status()
        assert status.calls[NAME].ours == before.calls[NAME].ours + 1
        assert status.other_caches == before.other_caches
    assert base.quantized_scaled_dot_product_attention is own_of_mlx_lm
    # A program may have kept the name.
    assert mx.array_equal(kept(q + 0, *heads, scale=0.2, mask="causal"), stock(q, *heads, scale=0.2, mask="causal"))


def test_unknown_quantized_caches_are_listed():
    class OtherCache(QuantizedKVCache):
        pass

    q, k, v = (mx.random.normal((1, HEADS, 3, D)) for _ in range(3))
    cache = OtherCache()
    heads = cache.update_and_fetch(k, v)
    with drop_in.install():
        base.scaled_dot_product_attention(q, *heads, cache=cache, scale=0.2, mask=None)
        name = f"{test_unknown_quantized_caches_are_listed.__name__}.<locals>.OtherCache"
        assert drop_in.status().other_caches[name] >= 1


def model_with_quantized_cache(dtype):
    """Heads of 32 elements, so that groups of 32 fit."""
    model = build(FAMILIES["qwen3_moe"])
    model.set_dtype(dtype)
    assert all(type(cache) is KVCache for cache in make_prompt_cache(model))
    return model


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["float32", "bfloat16"])
def test_logits_have_the_same_bits_however_a_prompt_is_cut(dtype, bits):
    model = model_with_quantized_cache(dtype)
    tokens = mx.random.randint(0, 100, (1, 150), key=mx.random.key(3))

    def logits(chunk):
        cache = [QuantizedKVCache(group_size=32, bits=bits) for _ in model.layers]
        pieces = [model(tokens[:, i : i + chunk], cache=cache) for i in range(0, tokens.shape[1], chunk)]
        return np.concatenate([evaluated(piece) for piece in pieces], axis=1)

    with drop_in.install():
        before = drop_in.status().calls[NAME]
        at_once = logits(tokens.shape[1])
        assert drop_in.status().calls[NAME].ours == before.ours + len(model.layers)
        for chunk in (1, 7, 64):
            np.testing.assert_array_equal(logits(chunk), at_once)
        assert drop_in.status().calls[NAME].stock == before.stock


@pytest.mark.parametrize("bits", [8, 4])
def test_generate_step_gives_the_same_tokens_and_bits_however_a_prompt_is_cut(bits):
    model = model_with_quantized_cache(mx.bfloat16)
    prompt = mx.random.randint(0, 100, (150,), key=mx.random.key(5))

    def generated(chunk):
        steps = generate_step(
            prompt,
            model,
            max_tokens=12,
            prefill_step_size=chunk,
            prompt_cache=[QuantizedKVCache(group_size=32, bits=bits) for _ in model.layers],
            kv_bits=bits,
            kv_group_size=32,
        )
        tokens, logprobs = zip(*steps, strict=True)
        return list(map(int, tokens)), np.stack([evaluated(row) for row in logprobs])

    with drop_in.install():
        expected = generated(2048)
        for chunk in (1, 7, 64):
            tokens, logprobs = generated(chunk)
            assert tokens == expected[0]
            np.testing.assert_array_equal(logprobs, expected[1])


@pytest.mark.parametrize(("queries", "keys"), [(0, L), (T, 0), (0, 0)])
def test_gradients_without_queries_or_keys(queries, keys):
    """MLX's product of quantized matrices ends the process there."""
    q, k, v = operands()
    q, k, v = q[:, :, :queries], tuple(a[:, :, :keys] for a in k), tuple(a[:, :, :keys] for a in v)
    gradient = mx.grad(lambda q: drop_in.quantized_scaled_dot_product_attention(q, k, v, scale=0.2).sum())(q)
    assert mx.array_equal(gradient, mx.zeros_like(q))


def test_a_mask_of_a_wider_type_is_left_to_mlx():
    q, keys, values = operands(mx.bfloat16)
    mask = mx.zeros((T, L))
    ours = drop_in.quantized_scaled_dot_product_attention(q, keys, values, scale=0.2, mask=mask)
    assert ours.dtype == stock(q, keys, values, scale=0.2, mask=mask).dtype == mx.float32
