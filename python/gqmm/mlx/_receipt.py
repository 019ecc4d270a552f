"""A receipt for the bits of a model: ``python -m gqmm.mlx --receipt MODEL``.

It evaluates the same requests in all ways of the contract, through mlx-lm, and compares the logits of every token. Each
instruction set has a process of its own, because a process keeps the one with which it began. One process runs at a time, so
that there is one copy of the model in memory.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

import gqmm
from gqmm.mlx._patch import install, status
from gqmm.mlx._primitives import Primitives, cache_of, primitives_of

# The lengths of the requests. Attention sums over blocks of 128 positions, so one request has more than a block. The last tokens
# of each are evaluated one at a time, all requests together.
_LENGTHS = (160, 43, 9)
_STEPS = 3
_CHUNKS = (64, 7)
_THREADS = (1, 2, 7)

Rows = list[list[str]]
"""For each request, a digest for the logits of each token."""


@dataclass(frozen=True)
class Settings:
    """What decides about the bits, besides the model: the arguments of install()."""

    only: tuple[str, ...] | None
    without: tuple[str, ...]
    precision: str
    pack: bool


@dataclass(frozen=True)
class Facts:
    """What a receipt is about."""

    model_type: str
    formats: tuple[str, ...]  # with the number of layers that have each
    dtype: str  # of the logits
    versions: dict[str, str]
    primitives: Primitives
    notes: tuple[str, ...]  # what status() says about calls and layers that stayed MLX's own


@dataclass(frozen=True)
class Run:
    """What a process found on its instruction set."""

    facts: Facts
    ways: dict[str, Rows]  # the first one is that of the digest
    skipped: dict[str, str]  # ways that mlx-lm does not have for this model, and why


@dataclass(frozen=True)
class Receipt:
    """The digest of a model's logits, and what it covers."""

    model: str
    settings: Settings
    facts: Facts
    digest: str  # of the first way's logits
    same: dict[str, list[str]]  # by instruction set, the ways that gave these bits
    other: tuple[str, ...]  # ways that gave other bits, and where
    skipped: tuple[str, ...]  # ways that mlx-lm does not have for this model, and why

    def __str__(self) -> str:
        """Describe the receipt in a few lines of text."""
        facts, settings = self.facts, self.settings
        versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
        lines = [
            f"{versions}, numerics contract {gqmm.numerics_contract()}",
            f"model:      {self.model} ({facts.model_type})",
            f"formats:    {'; '.join(facts.formats) or 'dense'}",
            f"type:       {facts.dtype}, precision {settings.precision}{', packed' if settings.pack else ''}",
            f"covers:     the logits of every token of {len(_LENGTHS)} requests, of {', '.join(map(str, _LENGTHS))} tokens",
            f"gqmm's:     {', '.join(facts.primitives.of_gqmm) or 'nothing'}",
            f"MLX's own:  {', '.join(facts.primitives.of_mlx) or 'nothing'}; and what only moves elements",
        ]
        lines += [f"            {note}" for note in facts.notes]
        lines += [f"same bits:  {instruction_set}: {', '.join(ways)}" for instruction_set, ways in self.same.items() if ways]
        lines += [f"not run:    {way}" for way in self.skipped]
        lines += [f"OTHER BITS: {way}" for way in self.other]
        if self.other:
            return "\n".join([*lines, "no digest, because not all ways gave the same bits"])
        return "\n".join([*lines, f"digest:     sha256:{self.digest}"])


# --- In a process of its own: the ways on one instruction set -------------------------------------------------------------


class _NoSuchWayError(Exception):
    """mlx-lm cannot evaluate this model so."""


def _requests(vocabulary: int) -> list[list[int]]:
    """Return tokens that look random. They come from SHA-256, so that no library's generator decides about them."""

    def token(request: int, place: int) -> int:
        return int.from_bytes(hashlib.sha256(f"{request} {place}".encode()).digest()[:4], "big") % vocabulary

    return [[token(request, place) for place in range(length)] for request, length in enumerate(_LENGTHS)]


def _digests(logits: mx.array) -> list[str]:
    """Return a digest for each row of (tokens, vocabulary)."""
    rows = np.array(mx.contiguous(logits).view(mx.uint8))
    return [hashlib.sha256(row.tobytes()).hexdigest() for row in rows]


def _in_chunks(model: Any, requests: list[list[int]], size: int = max(_LENGTHS)) -> Rows:
    rows: Rows = []
    for tokens in requests:
        cache = cache_of(model)
        rows.append([])
        for begin in range(0, len(tokens), size):
            rows[-1] += _digests(model(mx.array([tokens[begin : begin + size]]), cache=cache)[0])
    return rows


def _pieces(length: int) -> list[int]:
    """Return the sizes of what a batch evaluates of a request: two chunks of the prompt, then single tokens."""
    prompt = length - _STEPS
    return [prompt * 2 // 3, prompt - prompt * 2 // 3, *[1] * _STEPS]


def _in_batch(model: Any, requests: list[list[int]]) -> Rows:
    """Evaluate the requests together, as mlx-lm's BatchGenerator does.

    A chunk is padded on the right. The caches are rolled after it, so that what follows has the padding on the left.
    """
    caches = [cache_of(model) for _ in requests]
    if alone := sorted({type(cache).__name__ for cache in caches[0] if not hasattr(cache, "merge")}):
        raise _NoSuchWayError(f"mlx-lm does not batch {', '.join(alone)}")
    merged = [of_layer[0].merge(list(of_layer)) for of_layer in zip(*caches, strict=True)]
    rows: Rows = [[] for _ in requests]
    for sizes in zip(*[_pieces(len(tokens)) for tokens in requests], strict=True):
        padding = [max(sizes) - size for size in sizes]
        begins = [len(done) for done in rows]
        chunk = [
            tokens[begin : begin + size] + [0] * pad
            for tokens, begin, size, pad in zip(requests, begins, sizes, padding, strict=True)
        ]
        if any(padding):
            for cache in merged:
                cache.prepare(lengths=list(sizes), right_padding=padding)
        logits = model(mx.array(chunk), cache=merged)
        for of_request, of_logits, size in zip(rows, logits, sizes, strict=True):
            of_request += _digests(of_logits[:size])
        if any(padding):
            for cache in merged:
                cache.finalize()
    return rows


@dataclass(frozen=True)
class _Way:
    name: str
    evaluate: Callable[[Any, list[list[int]]], Rows]
    threads: int = 0  # as in gqmm.set_num_threads
    on_every_set: bool = False


# On further instruction sets two ways are enough: the kernels for many rows run in one, and those for few rows in the other.
_WAYS = [
    _Way("at once", _in_chunks, on_every_set=True),
    *(_Way(f"in chunks of {size}", partial(_in_chunks, size=size)) for size in _CHUNKS),
    _Way("token by token", partial(_in_chunks, size=1)),
    _Way(f"in a batch of {len(_LENGTHS)}", _in_batch, on_every_set=True),
    *(_Way(f"with {threads} thread{'s' * (threads > 1)}", _in_chunks, threads) for threads in _THREADS),
]


def _formats_of(model: Any) -> tuple[str, ...]:
    formats = Counter(
        f"{getattr(layer, 'mode', 'affine')} {layer.bits} bits, groups of {layer.group_size}"
        for _, layer in model.named_modules()
        if "scales" in layer and hasattr(layer, "bits")
    )
    return tuple(f"{name} ({count} layers)" for name, count in formats.most_common())


def _notes() -> tuple[str, ...]:
    now = status()
    notes = [f"{calls.stock} calls of {name}" for name, calls in now.calls.items() if calls.stock]
    notes += [f"{count} expert layers are mlx-lm's: {why}" for why, count in now.other_layers.items()]
    notes += [f"{count} calls of attention with a {cache}" for cache, count in now.other_caches.items()]
    return tuple(notes)


def _facts_of(model: Any, config: dict[str, Any]) -> Facts:
    return Facts(
        model_type=config.get("model_type", "no model_type"),
        formats=_formats_of(model),
        dtype=str(model(mx.array([[0]])).dtype).removeprefix("mlx.core."),
        versions={**status().versions, "mlx-lm": importlib.metadata.version("mlx-lm")},
        primitives=primitives_of(model, [mx.array([[1, 2, 3]]), mx.array([[4]])]),
        notes=_notes(),
    )


def _run(folder: str, settings: Settings, every_way: bool) -> Run:
    install(only=settings.only, without=settings.without, precision=settings.precision, pack=settings.pack)
    model, config = importlib.import_module("mlx_lm.utils").load_model(Path(folder))
    requests = _requests(model(mx.array([[0]])).shape[-1])
    ways: dict[str, Rows] = {}
    skipped: dict[str, str] = {}
    for way in _WAYS:
        if every_way or way.on_every_set:
            gqmm.set_num_threads(way.threads)
            try:
                ways[way.name] = way.evaluate(model, requests)
            except _NoSuchWayError as why:
                skipped[way.name] = str(why)
    return Run(_facts_of(model, config), ways, skipped)


# --- The processes, and what they found -----------------------------------------------------------------------------------


def _run_on(instruction_set: str, folder: str, settings: Settings, every_way: bool) -> Run:
    task = json.dumps({"folder": folder, "settings": asdict(settings), "every_way": every_way})
    command = [sys.executable, "-m", __name__, task]
    result = subprocess.run(command, env={**os.environ, "GQMM_ISA": instruction_set}, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"[gqmm.mlx] --receipt: the run on {instruction_set} failed:\n{result.stderr}")
    found = json.loads(result.stdout.splitlines()[-1])  # mlx-lm may print before it
    primitives = Primitives(**found["facts"].pop("primitives"))
    return Run(Facts(**found["facts"], primitives=primitives), found["ways"], found["skipped"])


def _difference(rows: Rows, expected: Rows) -> str | None:
    """Return where the first token is whose logits have other bits."""
    for request, (found, wanted) in enumerate(zip(rows, expected, strict=True)):
        others = [place for place, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1]]
        if others:
            return f"request {request}, from token {others[0]} on, {len(others)} of {len(wanted)} tokens"
    return None


def _sets() -> list[str]:
    """Return the instruction set in use, and then the others of this machine unless GQMM_ISA asks for one."""
    active = gqmm.active_instruction_set()
    if os.environ.get("GQMM_ISA"):
        return [active]
    return [active, *(each.name for each in gqmm.instruction_sets() if each.supported and each.name != active)]


def check_model(folder: str) -> None:
    """Raise ValueError if there is no checkpoint in the folder, or no mlx-lm to load it."""
    if not os.path.isfile(os.path.join(folder, "config.json")):
        raise ValueError(f"--receipt {folder}: there is no config.json; give a folder with a checkpoint that mlx-lm loads")
    if importlib.util.find_spec("mlx_lm") is None:
        raise ValueError("--receipt needs mlx-lm: pip install mlx-lm")


def receipt(folder: str, settings: Settings) -> Receipt:
    """Evaluate the model in all ways, and return the digest of its logits. Progress goes to stderr.

    Args:
        folder: a checkpoint that mlx-lm loads.
        settings: those of install().

    Raises:
        ValueError: there is no checkpoint in the folder, or mlx-lm is not installed.
        RuntimeError: a process failed; the message has its errors.
    """
    check_model(folder)
    sets = _sets()
    runs: dict[str, Run] = {}
    for each in sets:
        print(f"running on {each}", file=sys.stderr)  # a large model takes minutes on each
        runs[each] = _run_on(each, folder, settings, every_way=each == sets[0])
    first = runs[sets[0]]
    expected = next(iter(first.ways.values()))
    same: dict[str, list[str]] = {each: [] for each in sets}
    other: list[str] = []
    for each, run in runs.items():
        for way, rows in run.ways.items():
            difference = _difference(rows, expected)
            if difference is None:
                same[each].append(way)
            else:
                other.append(f"{each}: {way}: {difference}")
    skipped = tuple(f"{way}: {why}" for way, why in first.skipped.items())
    digest = hashlib.sha256("".join(row for rows in expected for row in rows).encode()).hexdigest()
    return Receipt(folder, settings, first.facts, digest, same, tuple(other), skipped)


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    print(json.dumps(asdict(_run(task["folder"], Settings(**task["settings"]), task["every_way"]))))
