"""A rank of a model with divided experts, of which rank 1 is lost after a token.

MLX_HOSTFILE=… MLX_RANK=… python lost_rank.py MODEL HOW
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

import gqmm.mlx as drop_in
import mlx.core as mx
import mlx_lm

TIMEOUT = 5.5
WAYS: dict[str, Callable[[], object]] = {
    "stops": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "dies": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "sleeps": lambda: time.sleep(3 * TIMEOUT),
}


def main(folder: str, how: str) -> None:
    model, _ = mlx_lm.load(folder, lazy=True)
    group = mx.distributed.init(strict=True, backend="ring")
    drop_in.shard_experts(model, group, timeout=TIMEOUT)
    mx.eval(model(mx.array([[1]])))
    if group.rank() == 1:
        WAYS[how]()
    mx.eval(model(mx.array([[2]])))
    print("the exchange has ended")


if __name__ == "__main__":
    main(*sys.argv[1:])
