"""shard_experts: processes on the loopback, connected by mx.distributed's ring, have the bits of one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import gqmm.mlx as drop_in
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from families import FAMILIES
from gqmm.mlx._shard_experts import _keep
from mlx_lm.models.switch_layers import SwitchGLU
from mlx_lm.tuner.lora import LoRASwitchLinear
from mlx_lm_support import build, checkpoints
from rank_processes import Ended, assert_all_succeeded, run_ring

ROOT = Path(__file__).parents[3]
MODEL = ROOT / "models" / "shakespeare-moe-affine4"


def run_ranks(tmp_path: Path, ranks: int, arguments: list[list[str]]) -> list[Ended]:
    assert len(arguments) == ranks
    return run_ring(tmp_path, [[str(Path(__file__).with_name("ranks.py")), *mine] for mine in arguments])


def assert_bits_of_one(expected: dict[str, Any], model: Path, owners: str, ranks: int, tmp_path: Path) -> list[list[int]]:
    """Return the reports of the ranks."""
    reports = []
    results = run_ranks(tmp_path, ranks, [[str(model), owners]] * ranks)
    assert_all_succeeded(results)
    for _, output, _ in results:
        result = json.loads(output)
        reports.append(result.pop("report"))
        assert result == expected
    return reports


def assert_experts_are_divided(reports: list[list[int]], layers: int) -> None:
    for rank, report in enumerate(reports):
        assert report[:3] == [rank, len(reports), layers]
        assert report[3] * len(reports) == report[4]


@pytest.mark.parametrize("model", checkpoints())
def test_two_ranks_have_the_bits_of_one_and_half_of_the_memory(model, one_rank, tmp_path):
    expected = one_rank(model)
    assert expected["fused"] == expected["summed"] > 0
    assert_experts_are_divided(assert_bits_of_one(expected, model, "contiguous", 2, tmp_path), expected["fused"])


def test_four_ranks_have_the_bits_of_one_and_a_quarter_of_the_memory(one_rank, tmp_path):
    expected = one_rank(MODEL)
    assert_experts_are_divided(assert_bits_of_one(expected, MODEL, "round_robin", 4, tmp_path), expected["fused"])


def test_replicas_and_ranks_without_experts_have_the_bits_of_one(one_rank, tmp_path):
    experts = json.loads((MODEL / "config.json").read_text())["num_experts"]
    owners = [[0, 2] if expert % 3 else 2 for expert in range(experts)]  # rank 1 has none
    reports = assert_bits_of_one(one_rank(MODEL), MODEL, json.dumps(owners), 3, tmp_path)
    assert reports[1][3] == 0
    assert reports[2][3] == reports[2][4]


def test_ranks_with_another_owner_map_are_named_on_all(tmp_path):
    results = run_ranks(tmp_path, 2, [[str(MODEL), "contiguous"], [str(MODEL), "round_robin"]])
    for status, _, errors in results:
        assert status != 0
        assert "[shard_experts] ranks [1] have another model, owner map, timeout, dispatch_from or version" in errors


def test_a_rank_that_cannot_divide_does_not_let_the_others_wait(tmp_path):
    (_, _, first), (_, _, second) = run_ranks(tmp_path, 2, [[str(MODEL), "contiguous"], [str(MODEL), "[0, 1]"]])
    assert "[shard_experts] ranks [1] cannot divide the experts of their model" in first
    assert "[shard_experts] owners has 2 experts but a layer of the model has" in second


def test_one_rank_keeps_all_experts_and_wrong_arguments_change_nothing():
    model = build(FAMILIES["qwen3_moe"])
    tokens = mx.array([[1, 2, 3]])
    with drop_in.install():
        before = model(tokens)
        mx.eval(before)
        for owners, message in {"by_turns": "owners = 'by_turns' is unknown", (0, 1): "owners has 2 experts"}.items():
            with pytest.raises(ValueError, match=rf"^\[shard_experts\] {message}"):
                drop_in.shard_experts(model, owners=owners)
        with pytest.raises(TypeError, match=r"^\[shard_experts\] model: expected an mlx.nn.Module, got dict"):
            drop_in.shard_experts({})
        report = drop_in.shard_experts(model)
        assert report.expert_bytes == report.total_expert_bytes > 0
        assert "rank 0 of 1 has" in str(report)
        assert mx.array_equal(model(tokens), before)
        assert mx.array_equal(copy.deepcopy(model)(tokens), before)
        drop_in.pack_model(model)
        assert mx.array_equal(model(tokens), before)
        with pytest.raises(ValueError, match=r"^\[shard_experts\] the experts of .* were divided already"):
            drop_in.shard_experts(model)


def divided_layer(**shared: object) -> object:
    """A layer of experts on one rank, in a module, after the division. With `twice`, two layers have the same linear layers."""
    block = nn.Module()
    block.experts = SwitchGLU(64, 64, 4)
    if shared.get("twice"):
        block.others = SwitchGLU(64, 64, 4)
        for name in ("gate_proj", "up_proj", "down_proj"):
            block.others[name] = block.experts[name]
    report = drop_in.shard_experts(block)
    assert report.expert_bytes == 3 * 4 * 64 * 64 * 4
    return block


@pytest.mark.parametrize("wrong", [-1, 4, 100000])
def test_ids_out_of_range_are_refused(wrong):
    layer = divided_layer().experts
    with pytest.raises(RuntimeError, match="out of range"):
        mx.eval(layer(mx.ones((1, 64)), mx.array([[0, wrong]])))


def test_linear_layers_of_two_layers_are_divided_once():
    block = divided_layer(twice=True)
    x, ids = mx.ones((1, 64)), mx.array([[0, 3]])
    assert mx.array_equal(block.experts(x, ids), block.others(x, ids))


def test_whole_weights_and_adapters_after_the_division_are_refused():
    layer = divided_layer().experts
    layer.gate_proj.weight = mx.zeros((8, 64, 64))
    with pytest.raises(
        ValueError, match=r"^\[shard_experts\] gate_proj has 8 experts but this rank keeps 4; load weights before"
    ):
        layer(mx.ones((1, 64)), mx.array([[0, 1]]))
    layer.gate_proj = LoRASwitchLinear.from_base(SwitchGLU(64, 64, 4).gate_proj)
    with pytest.raises(ValueError, match=r"^\[shard_experts\] gqmm cannot compute divided experts: .*LoRASwitchLinear"):
        layer(mx.ones((1, 64)), mx.array([[0, 1]]))


def test_global_scales_are_divided_if_each_expert_has_one():
    linear = nn.Module()
    linear.weight, linear.global_scale = mx.arange(8).reshape(4, 2), mx.array([1.0, 2.0, 3.0, 4.0])
    other = nn.Module()
    other.weight, other.global_scale = mx.arange(8).reshape(4, 2), mx.array(5.0)
    before, after = _keep({"one": linear, "other": other}, ("one", "other"), np.array([1, 3]), set())
    assert (linear.global_scale.tolist(), other.global_scale.item()) == ([2.0, 4.0], 5.0)
    assert linear.weight.tolist() == [[2, 3], [6, 7]]
    assert (before, after) == (80, 40)


def test_a_wrong_group_is_refused():
    with pytest.raises(TypeError, match=r"^\[shard_experts\] group: expected an mx.distributed.Group or None, got int"):
        drop_in.shard_experts(nn.Module(), 3)
