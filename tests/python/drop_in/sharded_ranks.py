"""A rank of a model that mlx-lm itself divides over mx.distributed's ring. It prints what a test compares, as JSON.

    MLX_HOSTFILE=… MLX_RANK=… python -m gqmm.mlx sharded_ranks.py MODEL WAY FOLDER      WAY: tensor or pipeline
    python -m gqmm.mlx sharded_ranks.py MODEL whole FOLDER                              one rank, which has the whole model

The logits of a prompt go to FOLDER/rankRANK.npy. The model computes in float32.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gqmm.mlx as drop_in
import mlx.core as mx
import mlx_lm
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import sharded_load
from ranks import TOKENS, digest


def main(model_folder: str, way: str, folder: str) -> dict[str, Any]:
    rank = 0
    if way == "whole":
        model, tokenizer = mlx_lm.load(model_folder)
    else:
        group = mx.distributed.init(strict=True, backend="ring")
        rank = group.rank()
        model, tokenizer = sharded_load(model_folder, **{f"{way}_group": group})
    model.set_dtype(mx.float32)
    prompt = mx.random.randint(0, 64, (1, 70), key=mx.random.key(3))
    logits = model(prompt)
    np.save(Path(folder) / f"rank{rank}.npy", np.array(logits))
    cache = make_prompt_cache(model)
    chunks = [digest(model(prompt[:, i : i + 32], cache=cache)) for i in range(0, 70, 32)]
    text = "ROMEO:\nWhat light through yonder window breaks? "
    tokens = [each.token for each in mlx_lm.stream_generate(model, tokenizer, text, max_tokens=TOKENS)]
    size = sum(parameter.nbytes for _, parameter in tree_flatten(model.parameters()) if parameter is not None)
    calls = {name: [count.ours, count.stock] for name, count in drop_in.status().calls.items()}
    return {"prompt": digest(logits), "chunks": chunks, "tokens": tokens, "bytes": size, "calls": calls}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
