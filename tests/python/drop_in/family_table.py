"""Writes docs/guide/families.md: what gqmm computes of each model file of mlx-lm, and how fast. `./dev families` runs it.

With names of families, it measures these alone. The others keep their figures, if they are of the same machine.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
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
PIECES = ("prompt", "token")
PRIMITIVES = "--primitives"  # the argument with which this program prints what exact_rows returns


def exact_cells(family: str, primitives: Primitives) -> list[str]:
    """The columns that are the same on every machine. One word stands for the long names of what mx.compile fused."""
    of_mlx = {"compiled" if name.startswith("Compiled") else name for name in primitives.of_mlx}
    return [family, ", ".join(primitives.of_gqmm), ", ".join(sorted(of_mlx))]


def measured_cells(times: Times) -> list[str]:
    """The other columns."""
    shares = [
        f"{piece}: {', '.join(large)}" for piece, each in zip(PIECES, times.of_mlx, strict=True) if (large := large_shares(each))
    ]
    speed = [f"{float(f'{stock / ours:.1g}'):g}" for stock, ours in zip(times.stock, times.ours, strict=True)]
    return ["; ".join(shares) or "nothing", ", ".join(speed), f"{times.difference:.0e}"]


def large_shares(shares: dict[str, float]) -> list[str]:
    large = [(name, share) for name, share in shares.items() if share >= LEAST_SHARE]
    return [f"`{name}` {5 * round(20 * share)} %" for name, share in sorted(large, key=lambda each: -each[1])]


def exact_rows() -> dict[str, list[str]]:
    """The columns of all families that are the same on every machine.

    A process of its own finds them, because functions that mx.compile has traced with stock MLX before keep its primitives.
    """
    command = [sys.executable, __file__, PRIMITIVES]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    rows: dict[str, list[str]] = json.loads(answer.splitlines()[-1])  # mlx-lm prints lines before it
    return rows


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

What gqmm computes of each model of {versions()}. `./dev families` writes this page. A test compares it with the
models' graphs, except for the figures that were measured. [MLX and mlx-lm](mlx.md) explains the operators.

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


def page(rows: list[list[str]]) -> str:
    """The text of the page."""
    lines = [*introduction(), *measurement(), *markdown(HEADER, rows)]
    lines += [
        "",
        "## What is left to MLX",
        "",
        "Operations above 5 % of a layer, with the number of families where they are:",
        "",
    ]
    lines += markdown(["operation", *(f"of a {piece}" for piece in PIECES)], operations_in_families(rows))
    lines += ["", "## Not run", "", *not_run()]
    return "\n".join(lines) + "\n"


def not_run() -> Iterator[str]:
    return markdown(["family", "why"], [[name, why] for name, why in sorted(LEFT_OUT.items())])


def operations_in_families(rows: list[list[str]]) -> list[list[str]]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for shares in row[EXACT].split("; "):
            piece, _, large = shares.partition(": ")
            for name in re.findall(r"`[^`]+`", large):
                counts[name][piece] += 1
    ordered = sorted(counts.items(), key=lambda each: (-each[1].total(), each[0]))
    return [[name, *(str(of_pieces[piece]) for piece in PIECES)] for name, of_pieces in ordered]


def rows_of_page(text: str) -> dict[str, list[str]]:
    """The cells of the page's table, by family."""
    _, _, table = text.partition(next(iter(markdown(HEADER, []))))
    rows = [line.strip("| ").split(" | ") for line in table.split("\n\n")[0].splitlines()[2:]]
    return {row[0]: row for row in rows}


def main(names: list[str]) -> int:
    if unknown := sorted(set(names) - set(ROWS)):
        print(f"there is no family {', '.join(unknown)}; the families are {', '.join(ROWS)}", file=sys.stderr)
        return 2
    known: dict[str, list[str]] = {}
    if names:
        known = rows_of_page(PAGE.read_text())
        if machine() not in PAGE.read_text():
            print(f"{PAGE} has figures of another machine; measure all families", file=sys.stderr)
            return 2
    exact = exact_rows()
    rows = []
    for name, family in ROWS.items():
        figures = known[name][EXACT:] if name in known and name not in names else None
        if figures is None:
            print(f"measuring {name} ({len(rows) + 1} of {len(ROWS)})", file=sys.stderr)
            times = times_of(family)
            if not times.difference <= PROMISED_TOLERANCE:
                print(f"{name}: logits are {times.difference:.2g} apart, more than {PROMISED_TOLERANCE:g}", file=sys.stderr)
                return 1
            figures = measured_cells(times)
        rows.append([*exact[name], *figures])
    PAGE.write_text(page(rows))
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == [PRIMITIVES]:
        print(json.dumps({name: exact_cells(name, primitives_of_family(family)) for name, family in ROWS.items()}))
        sys.exit()
    sys.exit(main(sys.argv[1:]))
