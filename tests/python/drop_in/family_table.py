"""Writes docs/guide/families.md: what gqmm computes of each model file of mlx-lm, and how fast. `./dev families` runs it."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gqmm.mlx as drop_in
import mlx.core as mx
from families import FAMILIES, LEFT_OUT, Family
from families.family import WIDER
from family_times import PROMPT, STEPS, Times, times_of
from gqmm.mlx._primitives import Primitives, primitives_of
from mlx_lm_support import PROMISED_TOLERANCE, ROOT, build

PAGE = ROOT / "docs" / "guide" / "families.md"
LEAST_SHARE = 0.05  # of a layer's time, from where on the table names an operation

# By its name, the family of each row. A model file can have further ones, which tests use.
ROWS = {name: family for name, family in sorted(FAMILIES.items(), key=lambda each: each[0].lower()) if name == family.module}

HEADER = ["family", "gqmm's", "MLX's own", "MLX's own above 5 %", "times stock", "logits"]
EXACT = 3  # so many columns are the same on every machine


@dataclass(frozen=True)
class Row:
    """What the table says about a family."""

    family: str
    primitives: Primitives
    times: Times

    def cells(self) -> list[str]:
        of_prompt, of_token = (theirs / ours for theirs, ours in zip(self.times.stock, self.times.ours, strict=True))
        shares = [f"{name}: {text}" for name, each in zip(("prompt", "token"), self.times.of_mlx, strict=True)
                  if (text := shares_text(each))]  # fmt: skip
        speed = f"{coarse(of_prompt)}, {coarse(of_token)}"
        return [*exact_cells(self.family, self.primitives), "; ".join(shares) or "nothing", speed, f"{self.times.difference:.0e}"]


def exact_cells(family: str, primitives: Primitives) -> list[str]:
    """The columns that are the same on every machine. One word stands for the long names of what mx.compile fused."""
    of_mlx = {"compiled" if name.startswith("Compiled") else name for name in primitives.of_mlx}
    return [family, ", ".join(primitives.of_gqmm), ", ".join(sorted(of_mlx))]


def coarse(ratio: float) -> str:
    """A ratio with one significant digit."""
    return f"{float(f'{ratio:.1g}'):g}"


def large_shares(shares: dict[str, float]) -> dict[str, float]:
    found = [(name, share) for name, share in shares.items() if share >= LEAST_SHARE]
    return dict(sorted(found, key=lambda each: -each[1]))


def shares_text(shares: dict[str, float]) -> str:
    return ", ".join(f"`{name}` {5 * round(20 * share)} %" for name, share in large_shares(shares).items())


def primitives_of_family(family: Family) -> Primitives:
    """Return the primitives in the graphs of a prompt and of a token after it."""
    model = build(family)
    with drop_in.install():
        return primitives_of(model, [mx.array([list(range(PROMPT))]), mx.array([[PROMPT]])])


def versions() -> str:
    return f"mlx-lm {importlib.metadata.version('mlx-lm')} and MLX {importlib.metadata.version('mlx')}"


def machine() -> str:
    """The processor's name, with what tells processors of one name apart."""
    text = Path("/proc/cpuinfo").read_text()
    facts = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", text, re.MULTILINE))
    return f"{facts.get('model name', 'unknown')} (family {facts.get('cpu family', '?')}, model {facts.get('model', '?')})"


def markdown(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def introduction() -> Iterator[str]:
    yield f"""# Families of models

What gqmm computes of each model of {versions()}. `./dev families` writes this page, and a test compares it with
what is so, but for the figures that were measured. [MLX and mlx-lm](mlx.md) explains the operators.

Each model file has a small model with random weights, most of them quantized to 4 bits. It evaluates a prompt of {PROMPT} tokens
and then {STEPS} single tokens, on stock MLX and with `gqmm.mlx.install()`. The columns are:

- **gqmm's** and **MLX's own**: the primitives in MLX's graphs, without those that only move elements. `compiled` stands for those
  of MLX that `mx.compile` fused.
- **MLX's own above 5 %**: the functions of MLX and mlx-lm that take so much of a layer's time with gqmm, and in which gqmm
  computes nothing; for the prompt and for a token.
- **times stock**: how many times as fast as stock MLX the layers are, for the prompt and for a token.
- **logits**: the largest difference between stock MLX's logits and gqmm's, in root mean squares of stock's. `./dev families`
  fails if it is above {PROMISED_TOLERANCE:g}."""


def measurement() -> Iterator[str]:
    yield f"""
The last three columns were measured in float32, at {WIDER} times the width of the tests' models (most then have rows of 1,024
numbers), in processor time with one thread on either side, on {machine()}.
Times have one significant digit and shares are multiples of 5 %, because they differ between machines and from run to run.
"""


def page(rows: list[Row]) -> str:
    """The text of the page."""
    lines = [*introduction(), *measurement()]
    lines += markdown(HEADER, [row.cells() for row in rows])
    lines += [
        "",
        "## What is left to MLX",
        "",
        "Operations above 5 % of a layer, by the number of families in which they are:",
        "",
    ]
    lines += markdown(["operation", "of a prompt", "of a token"], operations_in_families(rows))
    lines += ["", "## Not run", ""]
    lines += markdown(["family", "why"], [[name, why] for name, why in sorted(LEFT_OUT.items())])
    return "\n".join(lines) + "\n"


def operations_in_families(rows: list[Row]) -> list[list[str]]:
    counts: dict[str, list[int]] = {}
    for row in rows:
        for i, shares in enumerate(row.times.of_mlx):
            for name in large_shares(shares):
                counts.setdefault(name, [0, 0])[i] += 1
    ordered = sorted(counts.items(), key=lambda each: (-sum(each[1]), each[0]))
    return [[f"`{name}`", *map(str, of_both)] for name, of_both in ordered]


def rows_of_page(text: str) -> dict[str, list[str]]:
    """The cells of the page's table, by family."""
    _, _, table = text.partition(next(iter(markdown(HEADER, []))))
    rows = [line.strip("| ").split(" | ") for line in table.split("\n\n")[0].splitlines()[2:]]
    return {row[0]: row for row in rows}


def main() -> int:
    rows = []
    for name, family in ROWS.items():
        print(f"{name} ({len(rows) + 1} of {len(ROWS)})", file=sys.stderr)
        rows.append(Row(name, primitives_of_family(family), times_of(family)))
        if not rows[-1].times.difference <= PROMISED_TOLERANCE:
            print(f"{name}: logits are {rows[-1].times.difference:.2g} apart, more than {PROMISED_TOLERANCE:g}", file=sys.stderr)
            return 1
    PAGE.write_text(page(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
