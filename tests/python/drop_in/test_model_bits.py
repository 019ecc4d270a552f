"""Logits of whole models have the same bits, whatever way leads to them.

The ways are a prompt at once and in chunks, alone and in a batch, with a cache from a file, on every instruction set, and with
any number of threads. The models are tiny ones of each kind of attention, and the checkpoints that mlx_lm_support.py finds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mlx_lm")
pytest.importorskip("gqmm.mlx")

import gqmm
import mlx.core as mx
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    RotatingKVCache,
    load_prompt_cache,
    make_prompt_cache,
    save_prompt_cache,
)
from mlx_lm_support import evaluated, ours
from model_bits import MODELS, PROMPT, RANDOM, THREADS, logits_in_chunks, model_of, operators_of, prompt

pytestmark = pytest.mark.mlx


def chunks_of(source):
    """mlx-lm multiplies the matrices of MLA in another order for a single token. So its bits are those of larger chunks alone."""
    return (7, 64) if source in ("deepseek_v3", "kimi_linear") else (1, 7, 64)


def assert_same_bits_in_chunks(source, model):
    tokens = prompt()
    with ours(*operators_of(source)):
        at_once = logits_in_chunks(model, tokens, PROMPT, make_prompt_cache(model))
        for chunk in chunks_of(source):
            in_chunks = logits_in_chunks(model, tokens, chunk, make_prompt_cache(model))
            np.testing.assert_array_equal(in_chunks, at_once, err_msg=f"chunks of {chunk}")


@pytest.mark.parametrize("source", MODELS)
def test_however_a_prompt_is_cut(source):
    assert_same_bits_in_chunks(source, model_of(source))


@pytest.mark.parametrize("name", RANDOM)
def test_however_a_prompt_is_cut_in_float32(name):
    assert_same_bits_in_chunks(name, model_of(name, mx.float32))


@pytest.mark.parametrize("source", MODELS)
def test_with_a_prompt_cache_from_a_file(source, tmp_path):
    model, tokens, cut = model_of(source), prompt(), 40
    with ours(*operators_of(source)):
        at_once = logits_in_chunks(model, tokens, PROMPT, make_prompt_cache(model))
        cache = make_prompt_cache(model)
        logits_in_chunks(model, tokens[:, :cut], cut, cache)
        save_prompt_cache(str(tmp_path / "prompt.safetensors"), cache)
        loaded = load_prompt_cache(str(tmp_path / "prompt.safetensors"))
        rest = logits_in_chunks(model, tokens[:, cut:], PROMPT - cut, loaded)
    np.testing.assert_array_equal(rest, at_once[:, cut:])


def padded(cache, padding):
    """The cache of a batch, for a layer that has this cache for one request."""
    if isinstance(cache, CacheList):
        return CacheList(*(padded(part, padding) for part in cache.caches))
    if isinstance(cache, ArraysCache):
        return ArraysCache(len(cache.cache), padding)
    return BatchRotatingKVCache(cache.max_size, padding) if isinstance(cache, RotatingKVCache) else BatchKVCache(padding)


# gpt2 adds embeddings of positions that count from the begin of the array, so padding moves them.
@pytest.mark.parametrize("source", [source for source in MODELS if source != "gpt2"])
def test_of_a_request_in_a_batch(source):
    """Prompts of several lengths, padded on the left, and tokens after them; windows are shorter than the longest prompt."""
    model = model_of(source)
    lengths, steps = [5, 40, 23], 4
    longest = max(lengths)
    padding = [longest - length for length in lengths]
    tokens = prompt(len(lengths), longest + steps, seed=4)
    chunks = [longest, *([1] * steps)]

    def logits(tokens, cache):
        ends = np.cumsum(chunks)
        pieces = [
            tokens[:, max(0, end - size) : end]
            for size, end in zip(chunks, ends - longest + tokens.shape[1] - steps, strict=True)
        ]
        return np.concatenate([evaluated(model(piece, cache=cache)) for piece in pieces], axis=1)

    with ours(*operators_of(source)):
        caches = [padded(cache, padding) for cache in make_prompt_cache(model)]
        together = logits(tokens, caches)
        for i, left in enumerate(padding):
            alone = logits(tokens[i : i + 1, left:], make_prompt_cache(model))
            np.testing.assert_array_equal(together[i : i + 1, left:], alone, err_msg=f"request {i}")


def test_on_every_instruction_set_and_with_any_number_of_threads():
    def digests(isa):
        program = Path(__file__).with_name("model_bits.py")
        run = subprocess.run(
            [sys.executable, program], env={**os.environ, "GQMM_ISA": isa}, stdout=subprocess.PIPE, text=True, check=True
        )
        return json.loads(run.stdout.splitlines()[-1])  # mlx-lm prints before it

    sets = [candidate.name for candidate in gqmm.instruction_sets() if candidate.supported]
    by_set = {isa: digests(isa) for isa in sets}
    expected = {source: [of_threads[0]] * len(THREADS) for source, of_threads in by_set[sets[0]].items()}
    assert len(expected) >= len(RANDOM) + 1, "the random models, and at least the checkpoint in models/"
    for isa, found in by_set.items():
        assert found == expected, isa
