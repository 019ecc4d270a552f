"""A rank of a model whose experts are divided over the ranks of mx.distributed. It prints what a test compares, as JSON.

    MLX_HOSTFILE=… MLX_RANK=… python ranks.py MODEL OWNERS     over the ring
    mpirun -n … python ranks.py MODEL OWNERS                   over OpenMPI
    python ranks.py MODEL OWNERS                               one rank, whose experts are not divided

OWNERS is a name, or the owner map as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import Any

import gqmm.mlx as drop_in
import mlx.core as mx
import mlx_lm
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

TOKENS = 60
BACKENDS = {"MLX_RANK": "ring", "OMPI_COMM_WORLD_RANK": "mpi"}  # by a variable that each rank has


def digest(array: mx.array) -> str:
    return hashlib.sha256(np.array(array.astype(mx.float32)).tobytes()).hexdigest()


def main(folder: str, owners: str) -> dict[str, Any]:
    drop_in.install()
    model, tokenizer = mlx_lm.load(folder, lazy=True)
    result: dict[str, Any] = {}
    backend = next((name for variable, name in BACKENDS.items() if variable in os.environ), None)
    if backend is not None:
        group = mx.distributed.init(strict=True, backend=backend)
        report = drop_in.shard_experts(model, group, owners=json.loads(owners) if owners.startswith("[") else owners)
        result["report"] = [report.rank, report.ranks, len(report.layers), report.expert_bytes, report.total_expert_bytes]
    prompts = mx.random.randint(0, 64, (3, 70), key=mx.random.key(3))
    result["prompt"] = digest(model(prompts[:1]))
    result["batch"] = digest(model(prompts))
    cache = make_prompt_cache(model)
    result["chunks"] = [digest(model(prompts[:1, i : i + 32], cache=cache)) for i in range(0, 70, 32)]
    block = model.model.layers[-1].mlp
    for tokens in (5, 70):  # slots to all ranks, and slots to one rank each
        hidden = mx.random.normal((1, tokens, model.args.hidden_size), key=mx.random.key(4))
        gradient = mx.grad(lambda x: (block(x) ** 2).sum())(hidden)
        result[f"gradient of {tokens}"] = [f"{value:.3e}" for value in mx.linalg.norm(gradient[0], axis=-1).tolist()]
    text = "ROMEO:\nWhat light through yonder window breaks? "
    result["tokens"] = [each.token for each in mlx_lm.stream_generate(model, tokenizer, text, max_tokens=TOKENS)]
    status = drop_in.status()
    result["fused"], result["summed"] = status.fused_layers, status.summed_layers
    return result


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
