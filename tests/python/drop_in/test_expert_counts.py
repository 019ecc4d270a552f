"""count_experts counts what routers choose, and leaves models as they were."""

from __future__ import annotations

import gqmm.mlx as drop_in
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from families import FAMILIES
from gqmm.dispatch import ExpertOwners
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP
from mlx_lm_support import build

pytestmark = pytest.mark.mlx


def test_ids_of_each_layer_are_counted():
    block = nn.Module()
    block.first, block.second = SwitchGLU(64, 64, 4), SwitchMLP(64, 64, 4)
    kinds = type(block.first), type(block.second)
    with drop_in.count_experts(block) as counts:
        for _ in range(70):
            block.first(mx.ones((2, 64)), mx.array([[0, 3], [3, 1]]))
        block.second(mx.ones((64,)), mx.array([2]))
        assert counts.by_layer()["second"].tolist() == [0, 0, 1, 0]
        block.second(mx.ones((64,)), mx.array([2]))
    block.first(mx.ones((64,)), mx.array([2]))
    assert {name: of_layer.tolist() for name, of_layer in counts.by_layer().items()} == {
        "first": [70, 70, 0, 140],
        "second": [0, 0, 2, 0],
    }
    assert counts.total().tolist() == [70, 70, 2, 140]
    assert (type(block.first), type(block.second)) == kinds


def test_a_counted_model_has_its_bits_and_its_counts_place_experts():
    model = build(FAMILIES["qwen3_moe"])
    tokens = mx.array([[1, 2, 3, 4, 5]])
    with drop_in.install():
        before = model(tokens)
        with drop_in.count_experts(model) as counts:
            assert mx.array_equal(model(tokens), before)
    args = model.args
    for of_layer in counts.by_layer().values():
        assert of_layer.shape == (args.num_experts,)
        assert of_layer.sum() == tokens.size * args.num_experts_per_tok
    owners = ExpertOwners.by_load(counts.total(), 2, 2)
    assert {rank for expert in range(args.num_experts) for rank in owners.ranks_of(expert)} == {0, 1}


def test_layers_with_other_numbers_of_experts_have_no_total():
    block = nn.Module()
    block.first, block.second = SwitchGLU(64, 64, 4), SwitchGLU(64, 64, 2)
    with (
        drop_in.count_experts(block) as counts,
        pytest.raises(
            ValueError, match=r"^\[count_experts\] layers have different numbers of experts: {'first': 4, 'second': 2}"
        ),
    ):
        counts.total()
    assert np.array_equal(counts.by_layer()["second"], [0, 0])


def test_models_without_expert_layers_are_refused():
    with (
        pytest.raises(ValueError, match=r"^\[count_experts\] the model has no SwitchGLU or SwitchMLP"),
        drop_in.count_experts(nn.Linear(2, 2)),
    ):
        pass
