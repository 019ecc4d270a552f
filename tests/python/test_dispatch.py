"""gqmm.dispatch: simulated ranks have the bits of one, arrays of every library come and go, wrong arguments are refused."""

from __future__ import annotations

import copy
import pickle
import re

import gqmm
import ml_dtypes
import numpy as np
import oracle
import pytest
from gqmm import dispatch
from oracle import Setting

E, H, I = 8, 64, 96  # noqa: E741


def exchange(parts: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """What each rank sends to each becomes what each receives from all."""
    return [list(received) for received in zip(*parts, strict=True)]


def cut(rows: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    assert counts.sum() == len(rows)
    return np.split(rows, np.cumsum(counts)[:-1])


def weights(rng: np.random.Generator, N: int, K: int) -> gqmm.QuantizedWeights:
    made = oracle.random_weights(rng, Setting("affine", 4, 32), (E,), N, K)
    return gqmm.QuantizedWeights(*made.arrays(), group_size=32, bits=4)


def of_experts(layer: gqmm.QuantizedWeights, experts: np.ndarray) -> gqmm.QuantizedWeights:
    return gqmm.QuantizedWeights(
        *(np.asarray(part)[experts] for part in (layer.w, layer.scales, layer.biases)), group_size=32, bits=4
    )


def layer_over_ranks(tokens: list[tuple[np.ndarray, ...]], owners: dispatch.ExpertOwners, block: tuple) -> list[np.ndarray]:
    ranks = len(tokens)
    plans = [dispatch.DispatchPlan(ids, owners, rank, ranks, E) for rank, (_, ids, _) in enumerate(tokens)]
    packed = [dispatch.pack_rows(plan, x) for plan, (x, _, _) in zip(plans, tokens, strict=True)]
    rows = exchange([cut(row, plan.send_counts) for row, plan in zip(packed, plans, strict=True)])
    ids = exchange([cut(plan.send_ids, plan.send_counts) for plan in plans])
    results = []
    for rank in range(ranks):
        came = np.concatenate(ids[rank])
        experts = owners.experts_of(rank)
        local = dispatch.local_ids(came, owners, rank)
        held = [of_experts(layer, experts) for layer in block]
        slots = gqmm.moe_ffn(np.concatenate(rows[rank]), local, None, *held, missing="zero")
        counts = dispatch.return_counts(came, np.array([len(part) for part in rows[rank]]))
        results.append(cut(dispatch.pack_results(slots, came), counts))
    returned = exchange(results)
    for plan, parts in zip(plans, returned, strict=True):
        assert [len(part) for part in parts] == plan.recv_counts.tolist()
    return [
        dispatch.combine(plan, dispatch.unpack(plan, np.concatenate(parts)), router)
        for plan, parts, (_, _, router) in zip(plans, returned, tokens, strict=True)
    ]


OWNERS = {
    "contiguous": lambda ranks: dispatch.ExpertOwners.contiguous(E, ranks),
    "round-robin": lambda ranks: dispatch.ExpertOwners.round_robin(E, ranks),
    "by load, with replicas": lambda ranks: dispatch.ExpertOwners.by_load(np.arange(E) ** 3, ranks, 3),
    "all on the last rank": lambda ranks: dispatch.ExpertOwners(np.full(E, ranks - 1)),
}


@pytest.mark.parametrize("ranks", [1, 2, 5, 16])
@pytest.mark.parametrize("kind", OWNERS)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
def test_simulated_ranks_have_the_bits_of_one(kind, ranks, dtype):
    rng = np.random.default_rng(ranks)
    block = (weights(rng, I, H), weights(rng, I, H), weights(rng, H, I))
    tokens = []
    for rank in range(ranks):
        T = [7, 0, 1, 4][rank % 4]
        x, router = (rng.standard_normal(shape, np.float32) for shape in ((T, H), (T, 3)))
        tokens.append((x.astype(dtype), rng.integers(-1, E, (T, 3), np.int32), router))
    for y, (x, ids, router) in zip(layer_over_ranks(tokens, OWNERS[kind](ranks), block), tokens, strict=True):
        assert oracle.same_bits(y, gqmm.moe_ffn(x, ids, router, *block, missing="zero"))


def test_a_token_goes_once_to_each_rank():
    plan = dispatch.DispatchPlan(np.array([[5, 0, 4], [1, 0, -1], [2, 5, 3]]), [0, 0, 1, 1, (2,), (2,)], 0, 3, 6)
    assert plan.send_counts.tolist() == [2, 1, 2]
    assert plan.recv_counts.tolist() == [3, 2, 3]
    assert plan.send_rows.tolist() == [0, 1, 2, 0, 2]
    assert plan.send_ids.tolist() == [[-1, 0, -1], [1, 0, -1], [2, -1, 3], [5, -1, 4], [-1, 5, -1]]
    assert plan.slot_of.tolist() == [1, 3, 4, 6, 8, 0, 2, 7]
    assert (plan.rank, plan.ranks, plan.num_experts, plan.shape) == (0, 3, 6, (3, 3))
    assert "rank 0 of 3" in repr(plan)


def test_replicas_depend_on_token_and_slot_alone():
    plans = [dispatch.DispatchPlan(np.zeros((4, 2), np.int64), [(2, 0, 1)], rank, 3, 1) for rank in range(3)]
    for plan in plans:
        assert plan.slot_of.tolist() == [1, 2, 7, 3, 4, 0, 5, 6]


def test_plans_do_not_change_when_their_arrays_are_written():
    plan = dispatch.DispatchPlan(np.array([[0, 1]]), dispatch.ExpertOwners.round_robin(2, 2), 0, 2, 2)
    for name in ("send_counts", "recv_counts", "send_rows", "send_ids", "slot_of"):
        before = getattr(plan, name).copy()
        getattr(plan, name)[...] = 99
        assert (getattr(plan, name) == before).all(), name


@pytest.mark.mlx
def test_results_are_arrays_of_their_operands_library():
    mx = pytest.importorskip("mlx.core")
    plan = dispatch.DispatchPlan(mx.array([[0, 1], [1, -1]]), dispatch.ExpertOwners.round_robin(2, 2), 1, 2, 2)
    rows = dispatch.pack_rows(plan, mx.ones((2, 4), mx.bfloat16))
    slots = dispatch.unpack(plan, rows)
    y = dispatch.combine(plan, slots, mx.ones((2, 2)))
    assert all(isinstance(a, mx.array) and a.dtype == mx.bfloat16 for a in (rows, slots, y))
    assert y.tolist() == [[2.0] * 4, [1.0] * 4]


def test_owners_are_shown_copied_and_pickled():
    owners = dispatch.ExpertOwners([0, (1, 0), [2]])
    assert [owners.ranks_of(expert) for expert in range(3)] == [(0,), (1, 0), (2,)]
    assert owners.experts_of(0).tolist() == [0, 1]
    assert owners.experts_of(7).tolist() == []
    assert copy.deepcopy(owners) is owners
    again = pickle.loads(pickle.dumps(owners))
    assert [again.ranks_of(expert) for expert in range(again.num_experts)] == [(0,), (1, 0), (2,)]


WRONG = {
    "[DispatchPlan] topk_ids[0, 1] = 2 is out of range: there are 2 experts": lambda o: dispatch.DispatchPlan(
        np.array([[0, 2]]), o, 0, 2, 2
    ),
    "[DispatchPlan] rank = -1 is outside 0 ... 1": lambda o: dispatch.DispatchPlan(np.array([[0]]), o, -1, 2, 2),
    "[DispatchPlan] num_experts = 3 but owners has 2 experts": lambda o: dispatch.DispatchPlan(np.array([[0]]), o, 0, 2, 3),
    "[DispatchPlan] owners: expert 1 belongs to rank 1": lambda o: dispatch.DispatchPlan(np.array([[0]]), o, 0, 1, 2),
    "[ExpertOwners] owners[1] is empty": lambda o: dispatch.ExpertOwners([0, ()]),
    "[ExpertOwners] owners[1] has rank 3 twice": lambda o: dispatch.ExpertOwners([0, (3, 3)]),
    "[ExpertOwners] owners[0] = -1 is out of range": lambda o: dispatch.ExpertOwners(np.array([-1])),
    "[ExpertOwners] extra_replicas = -1 is negative": lambda o: dispatch.ExpertOwners.by_load(np.array([1]), 1, -1),
    "[ExpertOwners] counts[1] = -4 is out of range": lambda o: dispatch.ExpertOwners.by_load(np.array([1, -4]), 1),
    "[ExpertOwners] expert 2 does not exist; there are 2": lambda o: o.ranks_of(2),
    "[local_ids] ids[1] = 1 is no expert of rank 0": lambda o: dispatch.local_ids(np.array([0, 1]), o, 0),
    "[return_counts] row_counts adds up to more rows": lambda o: dispatch.return_counts(np.array([[0]]), np.array([1, 2**62])),
    "[pack_results] slots has shape (1, 2, 3) but ids has shape (1, 1)": lambda o: dispatch.pack_results(
        np.ones((1, 2, 3)), np.array([[0]])
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_values_are_refused(message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        WRONG[message](dispatch.ExpertOwners([0, 1]))


def test_wrong_kinds_are_refused():
    for call in (
        lambda: dispatch.pack_rows(3, np.ones((1, 1))),
        lambda: dispatch.DispatchPlan("ids", [0], 0, 1, 1),
        lambda: dispatch.DispatchPlan(np.array([[0]]), 3.5, 0, 1, 1),
        lambda: dispatch.ExpertOwners(["a"]),
        lambda: dispatch.ExpertOwners.contiguous("8", 2),
    ):
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize("empty", [dispatch.DispatchPlan, dispatch.ExpertOwners])
def test_no_object_can_be_made_empty(empty):
    with pytest.raises(TypeError):
        empty.__new__(empty)
