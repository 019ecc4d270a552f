"""Divide the experts of every model that mlx-lm loads, for programs that do not call shard_experts themselves."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from gqmm.mlx._imports import rebind
from gqmm.mlx._shard_experts import ShardReport, shard_experts

if TYPE_CHECKING:
    from collections.abc import Callable


def _common_seed(group: mx.distributed.Group) -> int:
    """Return a number that is the same on all ranks: that which made the random state of rank 0."""
    state: Any = mx.random.state  # a list of arrays; its type hint is object
    states = mx.distributed.all_gather(state[0][None], group=group)
    high, low = np.array(states)[0].tolist()
    return (int(high) << 32) + int(low)


def shard_loaded_experts(owners: str, report: Callable[[ShardReport], None]) -> mx.distributed.Group:
    """Divide the experts of every model that mlx-lm loads from now on over the ranks that this process was started with.

    It replaces mlx_lm.utils.load_model, which mlx_lm.load calls, and mlx_lm.utils.sharded_load, which mlx-lm's chat, server and
    benchmark call on several ranks. All ranks get the same state of mx.random, so that they sample the same tokens.

    Args:
        owners: the owner map, as in shard_experts.
        report: is called with the report on each model.

    Returns:
        The ranks.
    """
    group = mx.distributed.init()
    utils: Any = importlib.import_module("mlx_lm.utils")  # mlx-lm has no type hints
    stock = utils.load_model

    def load_model(model_path: Any, lazy: bool = False, *arguments: Any, **keywords: Any) -> Any:
        model, config = stock(model_path, True, *arguments, **keywords)
        report(shard_experts(model, group, owners=owners))
        if not lazy:
            mx.eval(model.parameters())
        return model, config

    def sharded_load(
        repo: str, pipeline_group: Any = None, tensor_group: Any = None, return_config: bool = False, **keywords: Any
    ) -> Any:
        if pipeline_group is not None:
            raise ValueError("[shard_experts] the program asks for a pipeline as well; choose that or divided experts")
        return utils.load(repo, return_config=return_config, **keywords)

    rebind(stock, load_model)
    rebind(utils.sharded_load, sharded_load)
    mx.random.seed(_common_seed(group))
    return group
