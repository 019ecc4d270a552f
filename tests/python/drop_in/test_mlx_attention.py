"""Attention through MLX: values and transforms against stock, mlx-lm's caches, and the same bits however a prompt is cut."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("mlx_lm")
pytest.importorskip("gqmm.mlx")

import gqmm.mlx as drop_in
import mlx.core as mx
from dense_models import DENSE
from families import FAMILIES
from mlx_lm.models.cache import BatchKVCache, BatchRotatingKVCache, KVCache, RotatingKVCache, make_prompt_cache
from mlx_lm_support import build, evaluated, ours

pytestmark = pytest.mark.mlx

B, HEADS, KV_HEADS, T, L, D, DV = 2, 4, 2, 6, 37, 16, 24
stock = mx.fast.scaled_dot_product_attention


def operands(dtype=mx.float32, seed=1, queries=T):
    keys = mx.random.split(mx.random.key(seed), 3)
    shapes = [(B, HEADS, queries, D), (B, KV_HEADS, L, D), (B, KV_HEADS, L, DV)]
    return [mx.random.normal(shape, key=key).astype(dtype) for shape, key in zip(shapes, keys, strict=True)]


def masks():
    causal = mx.arange(L)[None] <= mx.arange(L - T, L)[:, None]
    return {
        "none": None,
        "causal": "causal",
        "bool": causal,
        "additive": mx.random.normal((B, 1, T, L), key=mx.random.key(7)),
    }


@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("sinks", [False, True])
def test_values_are_stocks(mask, sinks):
    q, k, v = operands()
    options = {"scale": D**-0.5, "mask": masks()[mask], "sinks": mx.random.normal((HEADS,)) if sinks else None}
    ours = drop_in.scaled_dot_product_attention(q, k, v, **options)
    expected = stock(q, k, v, **options)
    assert ours.dtype == expected.dtype
    assert mx.allclose(ours, expected, atol=2e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(mx.float16, 2e-3), (mx.bfloat16, 2e-2)])
def test_half_types(dtype, tolerance):
    q, k, v = operands(dtype)
    ours = drop_in.scaled_dot_product_attention(q, k, v, scale=D**-0.5, mask="causal")
    assert ours.dtype == dtype
    exact = stock(*(a.astype(mx.float32) for a in (q, k, v)), scale=D**-0.5, mask="causal")
    assert mx.allclose(ours.astype(mx.float32), exact, atol=tolerance)


def test_transforms():
    q, k, v = operands()

    def loss(function):
        return lambda q, k, v: (function(q, k, v, scale=D**-0.5, mask="causal") ** 2).sum()

    ours = mx.grad(loss(drop_in.scaled_dot_product_attention), argnums=(0, 1, 2))(q, k, v)
    expected = mx.grad(loss(stock), argnums=(0, 1, 2))(q, k, v)
    for a, b in zip(ours, expected, strict=True):
        assert mx.allclose(a, b, atol=1e-5)

    def call(function):
        return lambda q, k, v: function(q, k, v, scale=0.3)

    tangents = [mx.ones_like(a) for a in (q, k, v)]
    for a, b in zip(
        mx.jvp(call(drop_in.scaled_dot_product_attention), [q, k, v], tangents),
        mx.jvp(call(stock), [q, k, v], tangents),
        strict=True,
    ):
        assert mx.allclose(a[0], b[0], atol=1e-5)
    compiled = mx.compile(call(drop_in.scaled_dot_product_attention))
    assert mx.array_equal(compiled(q, k, v), call(drop_in.scaled_dot_product_attention)(q, k, v))
    batched = [mx.stack([a, 2 * a]) for a in (q, k, v)]
    for axes in [(0, 0, 0), (0, None, None)]:
        arguments = [b if axis == 0 else a for a, b, axis in zip((q, k, v), batched, axes, strict=True)]
        ours = mx.vmap(call(drop_in.scaled_dot_product_attention), in_axes=axes)(*arguments)
        for i in range(2):
            one = [b[i] if axis == 0 else a for a, b, axis in zip((q, k, v), batched, axes, strict=True)]
            assert mx.array_equal(ours[i], call(drop_in.scaled_dot_product_attention)(*one))


def test_what_gqmm_does_not_serve_is_stocks():
    q, k, v = operands()
    before = drop_in.status().calls["scaled_dot_product_attention"]
    integers = mx.ones((T, L), mx.int32)
    with pytest.raises(ValueError, match="scaled_dot_product_attention"):  # MLX's own error
        drop_in.scaled_dot_product_attention(q[0], k[0], v[0], scale=1.0)
    with pytest.raises(ValueError, match="scaled_dot_product_attention"):
        drop_in.scaled_dot_product_attention(q.astype(mx.complex64), k, v, scale=1.0)
    assert mx.array_equal(
        drop_in.scaled_dot_product_attention(q, k, v, scale=1.0, mask=integers), stock(q, k, v, scale=1.0, mask=integers)
    )
    calls = drop_in.status().calls["scaled_dot_product_attention"]
    assert (calls.ours, calls.stock) == (before.ours, before.stock + 3)
    with pytest.raises(ValueError, match='mask = "casual" is unknown'):
        drop_in.scaled_dot_product_attention(q, k, v, scale=1.0, mask="casual")
    with pytest.raises(ValueError, match=r"origin has shape \(1,\); it must be \(2,\)"):
        drop_in.scaled_dot_product_attention(q, k, v, scale=1.0, origin=mx.zeros((1,), mx.int32))


def test_only_and_without():
    def installed(**options):
        with drop_in.install(**options):
            return drop_in.status().operators, mx.fast.scaled_dot_product_attention is stock

    assert installed() == (drop_in.OPERATORS, False)
    assert installed(only=["moe"]) == (("moe",), True)
    assert installed(without=["scaled_dot_product_attention"]) == (
        tuple(name for name in drop_in.OPERATORS if name != "scaled_dot_product_attention"),
        True,
    )
    with drop_in.install():
        with drop_in.install(only=("gather_mm",)):  # the last one wins
            assert drop_in.status().operators == ("gather_mm",)
        assert drop_in.status().operators == drop_in.OPERATORS
    assert not drop_in.status().installed
    for options in [{"only": ["softmx"]}, {"without": ["softmx"]}]:
        with pytest.raises(ValueError, match="'softmx', which is no operator; use some of 'gather_qmm'"):
            drop_in.install(**options)
    with pytest.raises(ValueError, match="are both given"):
        drop_in.install(only=["moe"], without=["moe"])
    with pytest.raises(TypeError, match="is one string"):
        drop_in.install(only="moe")


def test_names_that_models_bound_are_replaced_and_restored():
    program = """
import sys
import gqmm.mlx
if sys.argv[1] == "before":
    import mlx_lm.models.qwen3
gqmm.mlx.install()
assert "mlx_lm" not in sys.modules or sys.argv[1] == "before"
from mlx_lm.models import base, qwen3
import mlx_lm.models.llama
ours = base.scaled_dot_product_attention
assert ours.__module__ != "mlx_lm.models.base", ours
assert qwen3.scaled_dot_product_attention is ours
assert mlx_lm.models.llama.scaled_dot_product_attention is ours
gqmm.mlx.uninstall()
for module in (base, qwen3, mlx_lm.models.llama):
    assert module.scaled_dot_product_attention.__module__ == "mlx_lm.models.base"
"""
    for when in ("before", "after"):
        subprocess.run([sys.executable, "-c", program, when], check=True)


def logits_in_chunks(model, tokens, chunk, cache):
    """Return the logits of all tokens, of a prompt that is evaluated in chunks."""
    return np.concatenate(
        [evaluated(model(tokens[:, i : i + chunk], cache=cache)) for i in range(0, tokens.shape[1], chunk)], axis=1
    )


# A family for each kind of attention: grouped heads, MLA, and sliding windows with sinks. DeepSeek's router is a dense product.
# mlx-lm multiplies the matrices of MLA in another order for a single token, so its bits are those of larger chunks alone.
# The dense models have other norms and activations.
ATTENTION = {
    "qwen3_moe": ("gather_qmm", "rms_norm", "rope", "softmax", "scaled_dot_product_attention"),
    "deepseek_v3": ("gather_qmm", "matmul", "scaled_dot_product_attention"),
    "gpt_oss": ("scaled_dot_product_attention", "softmax"),
}
MODELS = {**{name: (FAMILIES[name], operators) for name, operators in ATTENTION.items()}, **DENSE}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["float32", "bfloat16"])
def test_logits_have_the_same_bits_however_a_prompt_is_cut(name, dtype):
    family, operators = MODELS[name]
    model = build(family)
    model.set_dtype(dtype)
    tokens = mx.random.randint(0, 100, (1, 70), key=mx.random.key(3))
    with ours(*operators):
        at_once = logits_in_chunks(model, tokens, 70, make_prompt_cache(model))
        for chunk in (7, 64) if name == "deepseek_v3" else (1, 7, 64):
            np.testing.assert_array_equal(logits_in_chunks(model, tokens, chunk, make_prompt_cache(model)), at_once)


# gpt2 adds embeddings of positions that count from the begin of the array, so padding moves them.
@pytest.mark.parametrize("name", [name for name in MODELS if name != "gpt2"])
def test_logits_of_a_request_have_the_same_bits_in_a_batch(name):
    """Prompts of several lengths, padded on the left, and tokens after them; windows are shorter than the longest prompt."""
    family, operators = MODELS[name]
    model = build(family)
    lengths, steps = [5, 40, 23], 4
    longest = max(lengths)
    padding = [longest - length for length in lengths]
    tokens = mx.random.randint(0, 100, (len(lengths), longest + steps), key=mx.random.key(4))
    chunks = [longest, *([1] * steps)]

    def logits(tokens, cache):
        ends = np.cumsum(chunks)
        pieces = [
            tokens[:, max(0, end - size) : end]
            for size, end in zip(chunks, ends - longest + tokens.shape[1] - steps, strict=True)
        ]
        return np.concatenate([evaluated(model(piece, cache=cache)) for piece in pieces], axis=1)

    with ours(*operators):
        caches = [
            BatchRotatingKVCache(cache.max_size, padding) if isinstance(cache, RotatingKVCache) else BatchKVCache(padding)
            for cache in make_prompt_cache(model)
        ]
        together = logits(tokens, caches)
        for i, left in enumerate(padding):
            alone = logits(tokens[i : i + 1, left:], make_prompt_cache(model))
            np.testing.assert_array_equal(together[i : i + 1, left:], alone, err_msg=f"request {i}")


def test_rings_are_read_in_the_order_of_positions():
    """RotatingKVCache writes the newest key over the oldest one."""
    size, steps = 32, 80
    q = mx.random.normal((1, HEADS, steps, D))
    k = mx.random.normal((1, KV_HEADS, steps, D))
    v = mx.random.normal((1, KV_HEADS, steps, DV))
    from mlx_lm.models import base

    with drop_in.install(only=["scaled_dot_product_attention"]):
        cache = RotatingKVCache(size)
        for t in range(steps):
            now = slice(t, t + 1)
            ring = cache.update_and_fetch(k[:, :, now], v[:, :, now])
            ours = base.scaled_dot_product_attention(q[:, :, now], *ring, cache=cache, scale=0.25, mask=None)
            first = max(0, t + 1 - size)
            expected = drop_in.scaled_dot_product_attention(
                q[:, :, now],
                k[:, :, : t + 1],
                v[:, :, : t + 1],
                scale=0.25,
                mask=mx.arange(t + 1) >= first,
            )
            assert mx.array_equal(ours, expected), t


def test_a_request_has_the_same_bits_in_a_batch():
    from mlx_lm.models import base

    lengths, steps = [40, 3, 150], 5
    with drop_in.install(only=["scaled_dot_product_attention"]):
        padding = [max(lengths) - length for length in lengths]
        batch = BatchKVCache(padding)
        alone = [KVCache() for _ in lengths]
        for step, (first, last) in enumerate(
            itertools.pairwise([0, max(lengths), *range(max(lengths) + 1, max(lengths) + steps)])
        ):
            size = last - first
            shape = (len(lengths), KV_HEADS, size, D)
            q = mx.random.normal((len(lengths), HEADS, size, D))
            k, v = mx.random.normal(shape), mx.random.normal(shape)
            mask = batch.make_mask(size)
            together = base.scaled_dot_product_attention(q, *batch.update_and_fetch(k, v), cache=batch, scale=0.25, mask=mask)
            for i, cache in enumerate(alone):
                own = slice(padding[i] if step == 0 else 0, None)
                mask = cache.make_mask(size - own.start, return_array=False, window_size=None)
                kv = cache.update_and_fetch(k[i : i + 1, :, own], v[i : i + 1, :, own])
                expected = base.scaled_dot_product_attention(q[i : i + 1, :, own], *kv, cache=cache, scale=0.25, mask=mask)
                assert mx.array_equal(together[i : i + 1, :, own], expected)


def test_requests_whose_first_keys_were_dropped_have_the_same_bits_in_a_merged_batch():
    from mlx_lm.models import base

    size, lengths, steps = 64, [90, 20, 150], 4
    with drop_in.install(only=["scaled_dot_product_attention"]):

        def attend(cache, q, k, v):
            mask = cache.make_mask(q.shape[2])
            return base.scaled_dot_product_attention(q, *cache.update_and_fetch(k, v), cache=cache, scale=0.25, mask=mask)

        def operands(batch, length):
            return [mx.random.normal((batch, heads, length, D)) for heads in (HEADS, KV_HEADS, KV_HEADS)]

        alone = [RotatingKVCache(size) for _ in lengths]
        for cache, length in zip(alone, lengths, strict=True):
            mx.eval(attend(cache, *operands(1, length)))
        batch = BatchRotatingKVCache.merge(alone)
        for _ in range(steps):
            step = operands(len(lengths), 1)
            together = attend(batch, *step)
            for i, cache in enumerate(alone):
                assert mx.array_equal(together[i : i + 1], attend(cache, *(a[i : i + 1] for a in step)))


def test_a_name_that_a_program_kept_is_mlx_lms_after_uninstall():
    from mlx_lm.models import base
    from mlx_lm.models.cache import QuantizedKVCache

    own = base.scaled_dot_product_attention
    with drop_in.install():
        kept = base.scaled_dot_product_attention
        assert kept is not own
    q, k, v = mx.random.normal((3, 1, 2, 1, 64))
    cache = QuantizedKVCache(group_size=32)
    quantized = cache.update_and_fetch(k, v)
    expected = own(q, *quantized, cache=cache, scale=0.1, mask=None)
    assert mx.array_equal(kept(q, *quantized, cache=cache, scale=0.1, mask=None), expected)
    before = drop_in.status().calls["scaled_dot_product_attention"].ours
    kept(q, k, v, cache=None, scale=0.1, mask=None)
    assert drop_in.status().calls["scaled_dot_product_attention"].ours == before


def test_unknown_caches_are_listed():
    from mlx_lm.models import base

    class OtherCache(KVCache):
        pass

    q, k, v = operands(queries=1)
    with drop_in.install(only=["scaled_dot_product_attention"]):
        cache = OtherCache()
        kv = cache.update_and_fetch(k, v)
        ours = base.scaled_dot_product_attention(q, *kv, cache=cache, scale=0.25, mask=None)
        assert mx.array_equal(ours, drop_in.scaled_dot_product_attention(q, k, v, scale=0.25))
        status = drop_in.status()
    name = f"{test_unknown_caches_are_listed.__name__}.<locals>.OtherCache"
    assert status.other_caches[name] >= 1
    assert f"had a {name}, whose positions are not known" in str(status)
