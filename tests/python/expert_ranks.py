"""A rank of a layer whose experts are divided, over a real engine. Its status is 0 if it has the bits of one rank.

python expert_ranks.py ENGINE SCENARIO TIMEOUT
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import gqmm
import ml_dtypes
import numpy as np
import oracle
from gqmm import dispatch
from oracle import Setting

E, H, I, K = 12, 64, 96, 3  # noqa: E741
DTYPES = (np.float32, ml_dtypes.bfloat16)


def engine_of(name: str, timeout: float) -> Any:
    if name == "mpi":
        import gqmm.mpi

        return gqmm.mpi.Engine(timeout=timeout)
    import gqmm.torch_dist
    import torch.distributed

    torch.distributed.init_process_group("gloo")
    return gqmm.torch_dist.Engine(timeout=timeout)


def weights(rng: np.random.Generator, N: int, inputs: int) -> Any:
    return oracle.random_weights(rng, Setting("affine", 4, 32), (E,), N, inputs).arrays()


def of_experts(arrays: Any, experts: Any) -> gqmm.QuantizedWeights:
    return gqmm.QuantizedWeights(*(np.asarray(part)[experts] for part in arrays), group_size=32, bits=4)


def owners_of(ranks: int) -> dispatch.ExpertOwners:
    return dispatch.ExpertOwners.by_load(np.arange(E), ranks, 3)


def tokens_of(rank: int) -> list[int]:
    """The numbers of tokens of the layers that a rank checks."""
    return [0 if rank == 1 else 1, 5 + rank, 200]


def problem(rank: int, tokens: int, dtype: Any) -> tuple[Any, Any, Any]:
    """The x, ids and router's weights of a rank. Some slots are nobody's."""
    rng = np.random.default_rng([rank, tokens])
    x = rng.standard_normal((tokens, H), np.float32).astype(dtype)
    return x, rng.integers(-1, E, (tokens, K)), rng.standard_normal((tokens, K), np.float32)


def check_bits(layer: Any, block: Any, rank: int) -> None:
    whole = [of_experts(part, np.arange(E)) for part in block]
    for dtype, tokens in ((dtype, tokens) for dtype in DTYPES for tokens in tokens_of(rank)):
        x, ids, router = problem(rank, tokens, dtype)
        expected = gqmm.moe_ffn(x, ids, router, *whole, missing="zero")
        assert oracle.same_bits(layer(x, ids, router), expected)


def main(engine_name: str, scenario: str, timeout: str) -> None:
    engine = engine_of(engine_name, float(timeout))
    rng = np.random.default_rng(0)
    block = (weights(rng, I, H), weights(rng, I, H), weights(rng, H, I))
    owners = owners_of(engine.ranks)
    if scenario == "other owners" and engine.rank == 1:
        owners = dispatch.ExpertOwners.by_load(np.arange(E)[::-1], engine.ranks, 3)
    held = owners.experts_of(engine.rank)
    layer = dispatch.ExpertLayer(engine, *(of_experts(part, held) for part in block), owners=owners)
    if scenario == "bits":
        check_bits(layer, block, engine.rank)
    if scenario == "stops" and engine.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    if scenario == "dies" and engine.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ids = np.full((2, K), E if scenario == "wrong id" and engine.rank == 1 else 0)
    try:
        layer(np.ones((2, H), np.float32), ids, np.ones((2, K), np.float32))
    except ValueError as error:  # all ranks have it, and go on together
        print(f"rank {engine.rank}: {error}", flush=True)
        layer(np.ones((2, H), np.float32), np.zeros((2, K), int), np.ones((2, K), np.float32))
    print(f"rank {engine.rank} of {engine.ranks} is right", flush=True)
    if engine_name == "gloo":
        import torch.distributed

        torch.distributed.destroy_process_group()  # or gloo's threads may abort the process when it ends


if __name__ == "__main__":
    main(*sys.argv[1:])
