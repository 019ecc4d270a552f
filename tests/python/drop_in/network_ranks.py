"""A rank that generates text with divided experts, and measures how long that takes.

    MLX_HOSTFILE=… MLX_RANK=… python network_ranks.py MODEL      without the variables: one rank, whose experts are not divided

It prints what a test compares, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import gqmm.mlx as drop_in
import mlx.core as mx
import mlx_lm
from ranks import TOKENS, digest


def main(folder: str) -> dict[str, Any]:
    drop_in.install()
    model, tokenizer = mlx_lm.load(folder, lazy=True)
    model.set_dtype(mx.float32)
    if "MLX_RANK" in os.environ:
        drop_in.shard_experts(model, mx.distributed.init(strict=True, backend="ring"))
    start = time.monotonic()
    responses = list(mlx_lm.stream_generate(model, tokenizer, "ROMEO:", max_tokens=TOKENS))
    seconds = time.monotonic() - start
    logprobs = digest(mx.stack([response.logprobs for response in responses]))
    return {"tokens": [response.token for response in responses], "logprobs": logprobs, "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
