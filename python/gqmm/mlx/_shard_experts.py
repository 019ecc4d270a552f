"""Divide the experts of a model over the ranks of a group of mx.distributed."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from gqmm._engines import checked_timeout
from gqmm._gqmm import ExpertOwners, version
from gqmm.mlx._expert_layers import expert_layers, num_experts
from gqmm.mlx._moe import NotFusedError, layer_of, take_over
from gqmm.mlx._slot_exchange import SlotExchange
from gqmm.mlx._watchdog import gather_bytes, patience, watchdog_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gqmm._types import Array

nn: Any = importlib.import_module("mlx.nn")  # mlx.nn has no type hints

_PARTS = ("weight", "scales", "biases", "bias", "global_scale")
_NO_EXPERT_OF_ANY_RANK = 2**31 - 1
_NO_DIGEST = bytes(hashlib.sha256().digest_size)
"""What a rank sends that has an error, so that the others do not wait for it."""
_OWNER_MAPS = {"contiguous": ExpertOwners.contiguous, "round_robin": ExpertOwners.round_robin}


@dataclass(frozen=True)
class ShardReport:
    """What shard_experts did on this rank."""

    rank: int
    """The number of this rank."""
    ranks: int
    """How many ranks there are."""
    layers: tuple[str, ...]
    """The layers whose experts were divided, by their names in nn.Module.named_modules."""
    expert_bytes: int
    """The number of bytes of the experts that this rank keeps."""
    total_expert_bytes: int
    """The number of bytes of the experts of all ranks. Replicas count once."""

    def __str__(self) -> str:
        """Describe the report in a line of text."""
        size = f"{self.expert_bytes / 1e6:.1f} of {self.total_expert_bytes / 1e6:.1f} MB"
        return f"rank {self.rank} of {self.ranks} has {size} of experts in {len(self.layers)} layers"


class _Division:
    """The owner map of a layer, as arrays that a graph looks ids up in."""

    def __init__(self, owners: ExpertOwners, exchange: SlotExchange):
        self.exchange = exchange
        self._rank = exchange.group.rank()
        self.experts = owners.experts_of(self._rank)
        local = np.full(owners.num_experts, -1, np.int32)
        local[self.experts] = np.arange(len(self.experts))
        self._local = mx.array(local)
        ranks_of = [owners.ranks_of(expert) for expert in range(owners.num_experts)]
        self._replicas = mx.array([len(ranks) for ranks in ranks_of])
        widest = max(map(len, ranks_of))
        self._has_replicas = widest > 1
        self._rank_of_replica = mx.array([[*ranks, *[-1] * (widest - len(ranks))] for ranks in ranks_of])

    def __deepcopy__(self, memo: dict[int, Any]) -> _Division:
        return self  # it does not change, and a group cannot be copied

    def local_ids(self, indices: mx.array) -> mx.array:
        """Return the positions of experts on this rank, shape (…, k), with −1 for slots that another rank computes."""
        # MLX does not check what it indexes. An id out of range becomes one that moe_ffn refuses on every rank.
        wrong = self._are_wrong(indices)
        local = self._local[mx.where(wrong, 0, indices)]
        if self._has_replicas:
            local = mx.where(self.rank_of_slot(indices) == self._rank, local, -1)
        return mx.where(wrong, _NO_EXPERT_OF_ANY_RANK, local)

    def rank_of_slot(self, indices: mx.array) -> mx.array:
        """Return the rank that computes each slot, shape (…, k)."""
        indices = mx.where(self._are_wrong(indices), 0, indices)
        # The replica of a slot is that of gqmm.dispatch: number (token + slot) mod how many there are.
        *leading, k = indices.shape
        token = mx.arange(int(np.prod(leading))).reshape(*leading, 1)
        return self._rank_of_replica[indices, (token + mx.arange(k)) % self._replicas[indices]]

    def _are_wrong(self, indices: mx.array) -> mx.array:
        return (indices < 0) | (indices >= self._local.size)


class _ShardedLayer:
    """The base class that is added to the class of a layer whose experts were divided."""

    def __call__(self: Any, x: mx.array, indices: mx.array) -> mx.array:
        division: _Division = self._division
        layers = [self[name] for name in self._linear_layers]
        # Each rank's part of the gradient of x is that of its own slots.
        x = division.exchange.sum_gradients(x)
        try:
            compute = layer_of(x, division.local_ids(indices), layers, self.activation, missing="zero")
        except NotFusedError as why:
            raise ValueError(
                f"[shard_experts] gqmm cannot compute divided experts: {why}; adapters on experts need all of them"
            ) from why
        for name, layer in zip(self._linear_layers, layers, strict=True):
            if layer["weight"].shape[0] != len(division.experts):
                raise ValueError(
                    f"[shard_experts] {name} has {layer['weight'].shape[0]} experts but this rank keeps {len(division.experts)}; "
                    "load weights before shard_experts"
                )
        return take_over.slots_of(self, division.exchange.over_ranks(compute, division.rank_of_slot(indices)))


def _sharded_class(stock: type, names: tuple[str, ...]) -> type:
    body = {"_linear_layers": names, "__module__": stock.__module__, "__doc__": stock.__doc__}
    return type(stock.__name__, (_ShardedLayer, stock), body)


def _owner_map(owners: Any, num_experts: int, ranks: int) -> ExpertOwners:
    if isinstance(owners, str):
        if owners not in _OWNER_MAPS:
            raise ValueError(
                f"[shard_experts] owners = {owners!r} is unknown; pass {' or '.join(map(repr, _OWNER_MAPS))}, or a map"
            )
        return _OWNER_MAPS[owners](num_experts, ranks)
    made = owners if isinstance(owners, ExpertOwners) else ExpertOwners(owners)
    if made.num_experts != num_experts:
        raise ValueError(f"[shard_experts] owners has {made.num_experts} experts but a layer of the model has {num_experts}")
    for expert in range(num_experts):
        for rank in made.ranks_of(expert):
            if rank >= ranks:
                raise ValueError(f"[shard_experts] owners: expert {expert} belongs to rank {rank}, but there are {ranks} ranks")
    return made


@dataclass(frozen=True)
class _Layer:
    """A layer of experts that is to be divided."""

    name: str
    module: Any
    linear_layers: tuple[str, ...]
    owners: ExpertOwners


def _layers_to_divide(model: Any, owners: Any, ranks: int) -> list[_Layer]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"[shard_experts] model: expected an mlx.nn.Module, got {type(model).__name__}")
    layers = []
    for name, module, names in expert_layers(model):
        if isinstance(module, _ShardedLayer):
            raise ValueError(f"[shard_experts] the experts of {name} were divided already")
        try:
            layer_of(mx.zeros((1, 1)), mx.zeros((1, 1), mx.int32), [module[each] for each in names], module.activation)
        except NotFusedError as why:
            raise ValueError(f"[shard_experts] gqmm cannot compute {name}: {why}") from why
        layers.append(_Layer(name, module, names, _owner_map(owners, num_experts(module, names), ranks)))
    if not layers:
        raise ValueError("[shard_experts] the model has no SwitchGLU or SwitchMLP of mlx_lm.models.switch_layers")
    return layers


def _digest(model: Any, layers: Sequence[_Layer], settings: tuple[float | None, int]) -> bytes:
    """Return a digest of what must be equal on all ranks: version, settings, owner maps, the parameters' names, shapes and types.

    Parameters that every rank keeps also count with their first values. Those of experts do not, lest they be loaded whole.
    """
    digest = hashlib.sha256(f"{version()} {settings}".encode())
    utils: Any = importlib.import_module("mlx.utils")
    linear_layers = [layer.module[name] for layer in layers for name in layer.linear_layers]
    experts = {id(linear.get(part)) for linear in linear_layers for part in _PARTS}
    for name, values in sorted(utils.tree_flatten(model.parameters())):
        digest.update(f"{name} {values.shape} {values.dtype}".encode())
        if values.size and id(values) not in experts:
            digest.update(bytes(memoryview(values.reshape(-1)[:16].view(mx.uint8))))
    for layer in layers:
        digest.update(repr([layer.owners.ranks_of(expert) for expert in range(layer.owners.num_experts)]).encode())
    return digest.digest()


def _check_settings(timeout: Any, dispatch_from: Any) -> None:
    checked_timeout("shard_experts", timeout)
    if isinstance(dispatch_from, bool) or not isinstance(dispatch_from, int):
        raise TypeError(f"[shard_experts] dispatch_from: expected an int, got {type(dispatch_from).__name__}")
    if dispatch_from < 0:
        raise ValueError(f"[shard_experts] dispatch_from = {dispatch_from} is negative; pass a number of tokens")


def _agreed_layers(model: Any, owners: Any, settings: tuple[Any, Any], group: mx.distributed.Group) -> list[_Layer]:
    """Return the layers to divide, if all ranks have the same. A rank with an error tells the others, lest they wait for it."""
    error: Exception | None = None
    layers: list[_Layer] = []
    digest = _NO_DIGEST
    try:
        layers = _layers_to_divide(model, owners, group.size())
        _check_settings(*settings)
        digest = _digest(model, layers, settings)
    except Exception as caught:
        error = caught
    digests = gather_bytes(group, digest)
    if error is not None:
        raise error
    failed = [rank for rank, each in enumerate(digests) if each == _NO_DIGEST]
    if failed:
        raise ValueError(f"[shard_experts] ranks {failed} cannot divide the experts of their model; their own errors say why")
    others = [rank for rank, each in enumerate(digests) if each != digests[0]]
    if others:
        raise ValueError(
            f"[shard_experts] ranks {others} have another model, owner map, timeout, dispatch_from or version of gqmm than rank "
            "0; start all ranks with the same"
        )
    return layers


def _keep(layer: Any, names: tuple[str, ...], experts: Any, done: set[int]) -> tuple[int, int]:
    """Keep these experts of a layer, and release the others. Return the bytes before and after.

    Linear layers in `done` belong to another layer, too, and were divided with that.
    """
    before = after = 0
    chosen = mx.array(experts.astype(np.int32))
    for name in names:
        linear = layer[name]
        if id(linear) in done:
            continue
        done.add(id(linear))
        for part in _PARTS:
            whole = linear.get(part)
            if whole is not None and whole.ndim > 0:  # a global scale may be one number
                linear[part] = whole[chosen]
                mx.eval(linear[part])
                before += whole.nbytes
                after += linear[part].nbytes
                del whole
    mx.clear_cache()
    return before, after


def shard_experts(
    model: Any,
    group: mx.distributed.Group | None = None,
    *,
    owners: str | ExpertOwners | Array | Sequence[int | Sequence[int]] = "contiguous",
    timeout: float | None = 60.0,
    dispatch_from: int = 64,
) -> ShardReport:
    """Divide the experts of a model of mlx-lm over the ranks of a group, so that each rank keeps a part of them in memory.

    Every rank calls this with the same model, and then runs the same program with the same tokens. Each computes the slots of its
    own experts, and one all_sum adds them up: a slot has its value on one rank and zeros on the others. So all ranks have the
    results of one, bit for bit. From dispatch_from tokens on, each slot is sent to one rank alone, which adds up the token's
    slots, and the ranks exchange the sums: fewer bytes, the same bits. Everything but the experts is computed on every rank. It
    does not need install(), but the rest of the model is gqmm's only with it.

    MLX waits for ever for a rank that stalls. So a thread watches the exchanges: if one takes longer than `timeout`, or a rank
    has ended, it writes a sentence with the numbers of the missing ranks to stderr and ends the process with status 1. The ranks
    have TCP connections of their own for that.

    Ranks that sample must draw the same tokens: call mx.random.seed with the same number on each. Call pack_model after this
    function, and load weights before it. It does not go together with model.shard() or with adapters (LoRA) on experts.

    Load the model with lazy=True: then a rank reads a layer's experts, keeps its own, and releases the others, layer by layer.

    Args:
        model: a model of mlx-lm. Its layers SwitchGLU and SwitchMLP must be ones that install() would fuse; status() counts them.
        group: the ranks, as mx.distributed.init() returns them; None calls that.
        owners: "contiguous", "round_robin", a gqmm.dispatch.ExpertOwners, an integer array of shape (E,) with the rank of each
            expert, or a list of ranks and tuples of ranks. It holds for every layer.
        timeout: how many seconds a rank waits for the others before its process ends, at least the time that a layer takes on
            the slowest rank; None stands for no limit, and no thread that watches.
        dispatch_from: the number of tokens from which on slots are sent to one rank alone. It is the same on all ranks. Layers
            whose block does not add up slots as mlx-lm's blocks do use all_sum for any number.

    Returns:
        A report with the bytes of experts that this rank keeps.

    Raises:
        TypeError: model is no nn.Module, or group is no group, or timeout or dispatch_from is no number.
        ValueError: the model has no layer of experts, or one that gqmm cannot compute, or its experts were divided already;
            owners, timeout or dispatch_from does not fit; the ranks have different models, maps or versions, or cannot connect.
            No model is changed then, on any rank.
    """
    group = mx.distributed.init() if group is None else group
    if not isinstance(group, mx.distributed.Group):
        raise TypeError(f"[shard_experts] group: expected an mx.distributed.Group or None, got {type(group).__name__}")
    settings = (timeout, dispatch_from)
    with patience(group, timeout):
        layers = _agreed_layers(model, owners, settings, group)
        watchdog = watchdog_of(group, timeout)
    exchange = SlotExchange(group, dispatch_from)
    before = after = 0
    done: set[int] = set()
    with watchdog.busy():  # ranks may read their experts at very different speeds
        for layer in layers:
            division = _Division(layer.owners, exchange)
            old, new = _keep(layer.module, layer.linear_layers, division.experts, done)
            before, after = before + old, after + new
            object.__setattr__(layer.module, "_division", division)
            object.__setattr__(layer.module, "__class__", _sharded_class(type(layer.module), layer.linear_layers))
    exchange.barrier()
    return ShardReport(group.rank(), group.size(), tuple(layer.name for layer in layers), after, before)
