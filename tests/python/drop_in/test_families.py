"""mlx-lm's families of models, tiny and with random weights: the logits are those of stock MLX."""

from __future__ import annotations

import gc

import numpy as np
import pytest

pytest.importorskip("mlx_lm")
pytest.importorskip("gqmm.mlx")

import gqmm.mlx as drop_in
import mlx.core as mx
from families import FAMILIES, LEFT_OUT, RECURRENT, SUM_STAYS, VOCABULARY, model_files
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.switch_layers import QuantizedSwitchLinear
from mlx_lm_support import PROMISED_TOLERANCE, ROOT, assert_close, both, build, evaluated, size_of, terms, tolerance_of

pytestmark = pytest.mark.mlx

BATCH, LENGTH, STEPS = 2, 24, 8  # requests of 32 tokens


# Rounding errors go from token to token through a recurrent layer's state, which the derivation of tolerance_of does not follow.
# So these models have the tolerance that the guide promises.
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_of_a_batch_of_prompts_and_of_the_tokens_after_it_are_those_of_stock(name: str) -> None:
    family = FAMILIES[name]
    model = build(family)
    if family.quantization and family.expert_layers:
        experts = [layer for _, layer in model.named_modules() if isinstance(layer, QuantizedSwitchLinear)]
        formats = {(layer.mode, layer.bits, layer.group_size) for layer in experts}
        assert tuple(family.quantization.values()) in formats  # some families' predicates give a part of them 8 bits
    tokens = mx.random.randint(0, VOCABULARY, (BATCH, LENGTH + STEPS), key=mx.random.key(7))

    def logits() -> np.ndarray:
        cache = make_prompt_cache(model)
        pieces = [tokens[:, :LENGTH], *(tokens[:, position : position + 1] for position in range(LENGTH, LENGTH + STEPS))]
        return np.concatenate([evaluated(model(piece, cache=cache)) for piece in pieces], axis=1)

    gc.collect()  # the layers of earlier models, which status() would count
    before = drop_in.status()
    stock, ours = both(logits, *family.products)
    promised = PROMISED_TOLERANCE * size_of(stock)
    tolerance = promised if name in RECURRENT else tolerance_of(stock, terms(model))
    assert tolerance <= promised
    assert_close(ours, stock, tolerance)
    after = drop_in.status()
    assert after.other_layers == before.other_layers
    assert after.fused_layers - before.fused_layers == family.expert_layers
    is_summed = family.module not in SUM_STAYS
    assert after.summed_layers - before.summed_layers == (family.expert_layers if is_summed else 0)


def test_every_model_file_has_a_family() -> None:
    listed = {family.module for family in FAMILIES.values()} | set(LEFT_OUT)
    assert model_files() - listed == set(), "add a family to tests/python/drop_in/families, and run ./dev families"


def test_the_guide_names_what_is_not_summed() -> None:
    guide = (ROOT / "docs" / "guide" / "mlx.md").read_text()
    assert [name for name in SUM_STAYS if f"`{name}`" not in guide] == []
