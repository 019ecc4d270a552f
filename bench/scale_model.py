"""Predict how well layers of experts scale over nodes, from what one node computes and from a table of networks.

    python bench/scale_model.py [--measured bench/results/scale-….json]

The batch is divided over the nodes, and so are the experts. In every layer each node computes attention for its own tokens, sends
rows to the nodes that have their experts, computes what it received, and returns the results (`gqmm.dispatch`). Efficiency is the
time of attention and products over the time of the layer. The program prints its assumptions, and whether the aims are met.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BYTES_PER_WEIGHT = 4.5 / 8  # 4 bits, and a scale and a bias of 16 bits for each group of 64
BYTES_PER_ELEMENT = 2  # of x and of results: bfloat16
BYTES_PER_ID = 4
CHUNKS = (1, 2, 4, 8)  # of a node's experts: one is computed while rows and results of others travel

NODES = (4, 16, 64, 128)
TOKENS = (1, 8, 64, 256, 4096)
SAMPLED_ROWS = 8192  # tokens of all batches that are drawn for a figure, at least; the spread of the mean is then below 2 %
SEED = 0

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Model:
    """The layers of a model that have experts. Dense layers, the embedding and the head are left out."""

    name: str
    layers: int
    hidden: int
    width: int  # of an expert
    experts: int
    top: int
    attention_weights: int  # of a layer
    shared_experts: int = 0

    @property
    def expert_weights(self) -> int:
        return 3 * self.hidden * self.width

    @property
    def expert_bytes(self) -> float:
        return self.expert_weights * BYTES_PER_WEIGHT


# Attention of Qwen3: 64 heads of queries, 4 of keys and values, 128 elements. Of DeepSeek-V3: its five projections (MLA).
MODELS = (
    Model("Qwen3-235B", 94, 4096, 1536, 128, 8, 4096 * 128 * (64 + 4 + 4 + 64)),
    Model("DeepSeek-V3", 58, 7168, 2048, 256, 8,
          7168 * 1536 + 1536 * 128 * 192 + 7168 * 576 + 512 * 128 * 256 + 128 * 128 * 7168, shared_experts=1),
)  # fmt: skip


@dataclass(frozen=True)
class Network:
    """What an exchange costs a node: latency, then a time for each message, then the bytes that it sends or receives."""

    name: str
    latency: float  # seconds from the call on one node to the arrival of a small message on another
    per_message: float  # seconds of a node's processor for each message
    bytes_per_second: float  # in each direction at once


NETWORKS = (
    Network("10 GbE TCP", 25e-6, 4e-6, 1.1e9),
    Network("25 GbE TCP", 20e-6, 4e-6, 2.8e9),
    Network("100 GbE TCP", 15e-6, 3e-6, 8e9),
    Network("100 Gb RoCE", 3e-6, 0.5e-6, 11.5e9),
    Network("200 Gb InfiniBand", 1.5e-6, 0.3e-6, 23e9),
)


@dataclass(frozen=True)
class Node:
    """What one node computes. The limits are assumptions. `--measured` replaces the fractions of them, and the time of a layer.

    The fractions are those of bench/results/moe-intel-r-xeon-r-processor-family-6-model-207.md, in bfloat16 on one thread.
    """

    cores: int = 64
    dram_read: float = 390e9  # bytes per second that a read probe reaches: 0.85 of 12 channels of DDR5-4800
    int8_dot: float = 400e9  # operations per second and core: a vpdpbusd zmm, which is 128 of them, in each cycle of 3.1 GHz
    of_dram: float = 0.68  # the part of dram_read that moe_ffn reaches with one token
    of_int8_dot: float = 0.28  # the part of int8_dot that it reaches with many tokens
    dispatch_seconds: float = 0.0  # of a layer, for planning and for calls from Python, apart from products and exchanges

    @property
    def weight_bytes_per_second(self) -> float:
        return self.dram_read * self.of_dram

    @property
    def operations_per_second(self) -> float:
        return self.cores * self.int8_dot * self.of_int8_dot

    def product_seconds(self, weights: float, rows: npt.ArrayLike) -> Any:
        """The time of products of some weights with each number of rows: reading them or computing, whichever takes longer."""
        count = np.asarray(rows)
        reading = weights * BYTES_PER_WEIGHT / self.weight_bytes_per_second
        return np.where(count > 0, np.maximum(reading, 2 * weights * count / self.operations_per_second), 0.0)


@dataclass(frozen=True)
class Traffic:
    """What one layer's exchanges carry. Entry [source, target] of `rows` counts rows of x, that of `results` what returns for
    them, from the target to the source. Rows and results that stay on their node are on the diagonals."""

    rows: Indices
    results: Indices

    def row_bytes(self, hidden: int, top: int) -> Indices:
        return self.rows * (hidden * BYTES_PER_ELEMENT + top * BYTES_PER_ID)

    def result_bytes(self, hidden: int) -> Indices:
        return self.results * (hidden * BYTES_PER_ELEMENT)


def count_traffic(topk_ids: Indices, owners: Indices, homes: Indices, nodes: int) -> Traffic:
    """Count what `gqmm.dispatch.DispatchPlan` sends: a row once to each node that computes one of its slots, a result per slot.

    topk_ids: (tokens, top). owners: the node of each expert. homes: the node of each token.
    """
    targets = owners[topk_ids]
    sources = np.broadcast_to(homes[:, None], targets.shape)
    results = np.zeros((nodes, nodes), np.int64)
    np.add.at(results, (sources, targets), 1)
    needed = np.zeros((len(homes), nodes), bool)
    needed[np.arange(len(homes))[:, None], targets] = True
    rows = np.zeros((nodes, nodes), np.int64)
    np.add.at(rows, homes, needed.astype(np.int64))
    return Traffic(rows, results)


@dataclass(frozen=True)
class Exchange:
    """The load of an exchange on the busiest node. Fields may be means over samples."""

    waits: float  # 1 if anything is sent, else 0
    messages: float
    bytes: float
    copies: float  # how often the bytes are copied on the way, which reads and writes them

    @classmethod
    def of(cls, sent: Indices, arrays: int, copies: int) -> Exchange:
        """The load of so many bytes from [source] to [target], in a message for each array. Nothing is sent for no bytes."""
        sent = sent.copy()
        np.fill_diagonal(sent, 0)
        peers = max(int((sent > 0).sum(axis).max()) for axis in (0, 1))
        return cls(float(peers > 0), peers * arrays, max(int(sent.sum(axis).max()) for axis in (0, 1)), copies)

    @classmethod
    def of_rows(cls, sent: Indices) -> Exchange:
        """Rows and their ids are two arrays. They are copied into the messages, and computed where they arrive."""
        return cls.of(sent, arrays=2, copies=1)

    @classmethod
    def of_results(cls, sent: Indices) -> Exchange:
        """Results are copied into the messages, and from there to their slots."""
        return cls.of(sent, arrays=1, copies=2)

    @classmethod
    def header(cls, nodes: int) -> Exchange:
        """The load of telling every other node the counts, in messages whose bytes do not matter."""
        return cls(float(nodes > 1), nodes - 1, 0, 0)

    def transfer_seconds(self, network: Network, node: Node, chunks: int = 1) -> float:
        """The time for which a node is busy with messages, of each of so many chunks, with bytes and with copies."""
        of_byte = 1 / network.bytes_per_second + 2 * self.copies / node.dram_read
        return chunks * self.messages * network.per_message + self.bytes * of_byte

    def seconds(self, network: Network, node: Node) -> float:
        return self.waits * network.latency + self.transfer_seconds(network, node)


@dataclass(frozen=True)
class Work:
    """What a layer takes on some nodes, whatever the network: seconds of products on the slowest node, and the exchanges."""

    nodes: int
    attention: float
    shared: float
    experts: float
    header: Exchange
    rows: Exchange
    results: Exchange

    @property
    def compute(self) -> float:
        return self.attention + self.shared + self.experts


def mean_exchange(samples: Sequence[Exchange]) -> Exchange:
    fields = ("waits", "messages", "bytes", "copies")
    return Exchange(*(float(np.mean([getattr(each, field) for each in samples])) for field in fields))


def draw_routing(model: Model, tokens: int, rng: np.random.Generator) -> Indices:
    """Draw distinct experts for each token, all equally likely."""
    return np.argpartition(rng.random((tokens, model.experts)), model.top - 1, axis=1)[:, : model.top]


@functools.cache
def work_of(model: Model, nodes: int, tokens: int, node: Node) -> Work:
    """The mean work of a layer over random routings."""
    rng = np.random.default_rng(SEED)
    owners = np.arange(model.experts) * nodes // model.experts
    homes = np.arange(tokens) % nodes
    most_tokens = -(-tokens // nodes)
    experts, rows, results = [], [], []
    for _ in range(min(max(SAMPLED_ROWS // tokens, 4), 200)):
        ids = draw_routing(model, tokens, rng)
        seconds = node.product_seconds(model.expert_weights, np.bincount(ids.ravel(), minlength=model.experts))
        experts.append(np.bincount(owners, seconds, minlength=nodes).max())
        traffic = count_traffic(ids, owners, homes, nodes)
        rows.append(Exchange.of_rows(traffic.row_bytes(model.hidden, model.top)))
        results.append(Exchange.of_results(traffic.result_bytes(model.hidden)))
    return Work(
        nodes=nodes,
        attention=float(node.product_seconds(model.attention_weights, most_tokens)),
        shared=model.shared_experts * float(node.product_seconds(model.expert_weights, most_tokens)),
        experts=float(np.mean(experts)),
        header=Exchange.header(nodes),
        rows=mean_exchange(rows),
        results=mean_exchange(results),
    )


def seconds_in_turn(work: Work, network: Network, node: Node) -> float:
    """The time of a layer whose steps follow each other: plan, counts, rows, products, results."""
    exchanges = sum(each.seconds(network, node) for each in (work.header, work.rows, work.results))
    return work.compute + exchanges + (node.dispatch_seconds if work.nodes > 1 else 0.0)


def seconds_overlapped(work: Work, network: Network, node: Node, chunks: int) -> float:
    """The time of a layer that exchanges and computes at once, perfectly.

    A node's experts are divided into chunks, so weights are read once and rows are sent once. The rows of all chunks are sent
    first, and the shared expert is computed meanwhile. Each chunk is computed once its rows are there, and its results return
    when the network is free.
    """
    rows, results = (each.transfer_seconds(network, node, chunks) / chunks for each in (work.rows, work.results))
    computed, returned = work.shared, rows * chunks
    for chunk in range(chunks):
        computed = max(computed, rows * (chunk + 1)) + work.experts / chunks
        returned = max(returned, computed) + results
    latencies = (work.rows.waits + work.results.waits) * network.latency
    before = work.attention + work.header.seconds(network, node) + (node.dispatch_seconds if work.nodes > 1 else 0.0)
    return before + latencies + returned


@dataclass(frozen=True)
class Prediction:
    efficiency: float  # products and attention over the time of the layer
    speed_up: float  # over one such node with memory for all experts
    gains: dict[int, float]  # for numbers of chunks, the time without overlap over that with it, less 1

    @property
    def chunks(self) -> int:
        """The number of chunks with which overlap gains most; with 1, only the shared expert is overlapped."""
        return max(self.gains, key=lambda count: (self.gains[count], -count))

    @property
    def gain(self) -> float:
        return self.gains[self.chunks]


def predict(model: Model, nodes: int, tokens: int, networks: Sequence[Network], node: Node) -> list[Prediction]:
    """Predict a layer on each of the networks. The mean of the times is taken over random routings."""
    alone = seconds_in_turn(work_of(model, 1, tokens, node), networks[0], node)
    work = work_of(model, nodes, tokens, node)
    possible = [count for count in CHUNKS if count <= max(model.experts // nodes, 1)]
    predictions = []
    for network in networks:
        seconds = seconds_in_turn(work, network, node)
        gains = {count: seconds / seconds_overlapped(work, network, node, count) - 1 for count in possible}
        predictions.append(Prediction(work.compute / seconds, alone / seconds, gains))
    return predictions


AIM_NODES = 16
AIM_TOKENS = (64, 256, 1024, 4096)
AIM_NETWORK = next(network for network in NETWORKS if network.name == "100 Gb RoCE")
AIMS = {"Qwen3-235B": 0.80, "DeepSeek-V3": 0.87}
WORTHWHILE_GAIN = 0.1  # overlap is built where it gives more


def node_from_measured(figures: dict[str, Any], node: Node) -> Node:
    """The node with the figures that `gqmm bench scale --json` wrote. Raises ValueError for other files."""
    if figures.get("gqmm_bench_scale") != 1:
        raise ValueError("these are no figures of `gqmm bench scale` that this version reads; measure again with --json FILE")
    alone = [case for case in figures["cases"] if case["ranks"] == 1]
    if not alone:
        raise ValueError("there are no figures of one rank; measure again with 1 among --ranks")
    fewest, most = (choose(alone, key=lambda case: case["tokens"])["alone"] for choose in (min, max))
    return replace(
        node,
        of_dram=min(fewest["of_dram"]["median"], 1.0),
        of_int8_dot=most["of_arithmetic"]["median"],
        dispatch_seconds=max(figures["dispatch"]["seconds"]["median"], 0.0),
    )


def assumptions(node: Node, source: str) -> Iterator[str]:
    yield (
        f"A node reads {node.dram_read / 1e9:.0f} GB/s from memory, and has {node.cores} cores with an int8-dot peak of "
        f"{node.int8_dot / 1e9:.0f} GOP/s each (assumed: --dram-read, --cores, --int8-dot)."
    )
    yield (
        f"moe_ffn reaches {node.of_dram:.2f} of that rate with few tokens, and {node.of_int8_dot:.2f} of that peak with many "
        f"({source}). All cores and all channels of memory are assumed to reach the same part."
    )
    yield (
        f"Planning and calls take {node.dispatch_seconds * 1e6:.0f} µs in a layer besides products and exchanges "
        f"({'measured or given' if node.dispatch_seconds else 'not counted'})."
    )
    yield "Weights have 4 bits in groups of 64; x and results are bfloat16. All weights of a layer come from memory."
    yield "A product takes as long as reading its weights or computing it, whichever is longer."
    yield "The node with most work decides. Waiting for it lowers the speed-up, and not the efficiency."
    yield "Tokens choose distinct experts, all equally likely; experts are divided in order; tokens are divided evenly."
    yield "Attention counts its projections, of the node's own tokens. Scores, the cache, norms, router and head are not counted."
    yield "A row goes once to each node that computes one of its slots, with 4 bytes per slot; a result returns for each slot."
    yield "Rows and ids are a message each. Before them every node tells every other one the counts. Empty messages are not sent."
    yield "An exchange takes the latency, a time per message, and the bytes of the busiest node. Links do not share a limit."
    yield "Rows are copied once and results twice, at DRAM's rate. Nothing else runs on the network."
    yield (
        f"Overlap is perfect and takes no core: a node's experts are computed in up to {max(CHUNKS)} chunks while rows and "
        "results of others travel, and the shared expert while rows travel. More chunks are more messages."
    )


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def network_table(networks: Sequence[Network]) -> Iterator[str]:
    rows = [[each.name, f"{each.latency * 1e6:g} µs", f"{each.per_message * 1e6:g} µs", f"{each.bytes_per_second / 1e9:g} GB/s"]
            for each in networks]  # fmt: skip
    return markdown(["network (assumed)", "latency", "per message", "bandwidth"], rows)


def model_table(model: Model, networks: Sequence[Network], node: Node, all_nodes: Sequence[int]) -> Iterator[str]:
    rows = []
    for tokens in TOKENS:
        for nodes in all_nodes:
            cells = [f"{each.efficiency:.2f} (× {each.speed_up:.1f}), +{max(each.gain, 0):.0%}"
                     for each in predict(model, nodes, tokens, networks, node)]  # fmt: skip
            rows.append([str(tokens), str(nodes), *cells])
    return markdown(["tokens", "nodes", *(network.name for network in networks)], rows)


def aim_rows(model: Model, node: Node) -> list[list[str]]:
    rows = []
    for tokens in AIM_TOKENS:
        (figures,) = predict(model, AIM_NODES, tokens, [AIM_NETWORK], node)
        verdict = "met" if figures.efficiency >= AIMS[model.name] else "not met"
        worthwhile = "yes" if figures.gain > WORTHWHILE_GAIN else "no"
        rows.append([model.name, str(tokens), f"{figures.efficiency:.3f}", f"{AIMS[model.name]:.2f}", verdict,
                     f"{figures.gains[2]:+.1%}", f"{figures.gain:+.1%} ({figures.chunks})", worthwhile])  # fmt: skip
    return rows


def aim_table(node: Node) -> Iterator[str]:
    rows = [row for model in MODELS for row in aim_rows(model, node)]
    header = ["model", "tokens", "efficiency", "aim", "verdict"]
    overlap = ["overlap with 2 chunks", "with the best number", f"more than {WORTHWHILE_GAIN:.0%}"]
    return markdown([*header, *overlap], rows)


def report(node: Node, source: str, networks: Sequence[Network], all_nodes: Sequence[int]) -> Iterator[str]:
    yield "# Predicted scaling of experts over nodes"
    yield "\n## Assumptions\n"
    yield from (f"- {line}" for line in assumptions(node, source))
    yield ""
    yield from network_table(networks)
    for model in MODELS:
        bytes_of_layer = model.experts * model.expert_bytes
        yield (
            f"\n## {model.name}: {model.layers} layers of {model.experts} experts of {model.expert_bytes / 1e6:.1f} MB, "
            f"{model.layers * bytes_of_layer / 1e9:.0f} GB in all\n"
        )
        yield "A cell has the efficiency, the speed-up over one such node with memory for all, and the gain of perfect overlap.\n"
        yield from model_table(model, networks, node, all_nodes)
    yield f"\n## Aims: {AIM_NODES} nodes, {AIM_NETWORK.name}, without overlap\n"
    yield from aim_table(node)
    if node.dispatch_seconds > 0:
        yield "\nThe same without the time for planning and calls, which is the exchange alone:\n"
        yield from aim_table(replace(node, dispatch_seconds=0.0))


def network_from_text(text: str) -> Network:
    """A network of the command line: NAME,µs,µs,GB/s."""
    try:
        name, *numbers = text.split(",")
        latency, per_message, bandwidth = map(float, numbers)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not NAME,LATENCY,PER_MESSAGE,BANDWIDTH with two times in µs and GB/s, such as '100 Gb RoCE,3,0.5,11.5'"
        ) from None
    if not (latency >= 0 and per_message >= 0 and bandwidth > 0 and math.isfinite(latency + per_message)):
        raise argparse.ArgumentTypeError(f"'{text}' has a negative time, or a bandwidth that is not above 0")
    return Network(name, latency * 1e-6, per_message * 1e-6, bandwidth * 1e9)


def above_zero(kind: type) -> Any:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not (value > 0 and math.isfinite(value)):
            raise argparse.ArgumentTypeError(f"'{text}' is not a {'whole ' if kind is int else ''}number above 0")
        return value

    return parse


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Predict how well layers of experts scale over nodes.")
    parser.add_argument("--measured", type=Path, help="figures of `gqmm bench scale --json FILE`; assumptions without it")
    parser.add_argument("--cores", type=above_zero(int), default=Node.cores, help="cores of a node (%(default)s)")
    parser.add_argument("--dram-read", type=above_zero(float), default=Node.dram_read / 1e9, metavar="GB/S",
                        help="GB/s that a node reads from memory (%(default)g)")  # fmt: skip
    parser.add_argument("--int8-dot", type=above_zero(float), default=Node.int8_dot / 1e9, metavar="GOP/S",
                        help="int8-dot peak of a core, as `gqmm bench` counts it (%(default)g)")  # fmt: skip
    parser.add_argument("--dispatch", type=above_zero(float), metavar="µs",
                        help="time for planning and calls in a layer, in place of the measured one (0)")  # fmt: skip
    parser.add_argument("--nodes", type=above_zero(int), nargs="+", default=NODES, help="numbers of nodes")
    parser.add_argument("--network", type=network_from_text, action="append", metavar="NAME,µs,µs,GB/s",
                        help="a network in place of the table's: latency, time per message, bandwidth; repeatable")  # fmt: skip
    options = parser.parse_args(arguments)
    node = Node(cores=options.cores, dram_read=options.dram_read * 1e9, int8_dot=options.int8_dot * 1e9)
    source = "as measured for bench/results/moe-intel-r-xeon-r-processor-family-6-model-207.md"
    if options.measured is not None:
        try:
            figures = json.loads(options.measured.read_text())
            node = node_from_measured(figures, node)
        except (OSError, ValueError) as error:
            print(f"[scale_model] --measured {options.measured}: {error}", file=sys.stderr)
            return 2
        source = f"measured on {figures['machine']['cpu']}"
    if options.dispatch is not None:
        node = replace(node, dispatch_seconds=options.dispatch * 1e-6)
    for line in report(node, source, options.network or NETWORKS, options.nodes):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
