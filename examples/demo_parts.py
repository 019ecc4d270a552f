"""Parts that the demonstrations share: their models and texts, the published losses, and functions that print."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "shakespeare-moe-affine4"
PREDICTIONS, WINDOW = 2048, 256  # the numbers behind the published losses
TOLERANCE = 1e-4  # in nats per token, because both sides compute in float32
SEED, TEMPERATURE, PROMPT = 7, 0.7, "ROMEO:\n"


def other_models() -> list[Path]:
    """List the checkpoints in the folder that the environment variable GQMM_TEST_MODELS names, if it is set."""
    folder = os.environ.get("GQMM_TEST_MODELS")
    return sorted(path.parent for path in Path(folder).glob("*/config.json")) if folder else []


def published_loss(model: Path) -> float | None:
    """Find the model's float32 loss in the README beside its folder."""
    readme, name = model.parent / "README.md", re.escape(model.name.rpartition("-")[2])
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    row = re.search(rf"^\| *{name} *\| *(\d+\.\d+) *\|", text, re.MULTILINE)
    return float(row[1]) if row else None


def validation_tokens(model: Path, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens that the published losses are about.

    The whole text is encoded, because a shorter text could have other token boundaries.
    """
    return tokenizer.encode((model.parent / "valid.txt").read_text(encoding="utf-8")).ids[: PREDICTIONS + 1]


class Side:
    """One side of a comparison: its name, and its tokens per second in each job."""

    def __init__(self, name: str):
        self.name = name
        self.rows: dict[str, float] = {}

    def timed(self, job: str, steps: Iterable[Any], total: int, tokens: int) -> list[Any]:
        """Run the `total` steps of a job, which handle this number of tokens. Return their results and note the speed."""
        start = time.perf_counter()
        results = list(progress(steps, total, f"{self.name}, {job}"))
        self.rows[job] = tokens / (time.perf_counter() - start)
        return results


def table(ours: Side, theirs: Side | None = None) -> None:
    print(f"{'tokens/s':28}{ours.name:>12}" + (f"{theirs.name:>16}{'ratio':>10}" if theirs else ""))
    for name, value in ours.rows.items():
        print(f"{name:28}{value:12,.0f}" + (f"{theirs.rows[name]:16,.0f}{value / theirs.rows[name]:9.1f}×" if theirs else ""))


def progress(steps: Iterable[Any], total: int, label: str) -> Iterator[Any]:
    """Yield the steps and show a progress bar, which is erased at the end. There is no bar if the output is no terminal."""
    on_terminal = sys.stdout.isatty()
    for done, step in enumerate(steps, start=1):
        yield step
        if on_terminal:
            print(f"\r{label:20} {'█' * (30 * done // total):░<30} {done:4} of {total}", end="", flush=True)
    if on_terminal:
        print("\r\033[K", end="", flush=True)


def common_tokens(one: list[int], other: list[int]) -> int:
    """Count the tokens that are the same before the first one that differs."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def gqmm_program(*arguments: str) -> None:
    """Run the program gqmm. If it fails, this process ends.

    The program is the one that is installed beside this Python, or else the one on the PATH.
    """
    program = shutil.which("gqmm", path=Path(sys.executable).parent) or shutil.which("gqmm")
    if program is None:
        raise SystemExit("demo: the program gqmm is neither beside this Python nor on the PATH; `./dev demo` installs it")
    if subprocess.run([program, *arguments], check=False).returncode != 0:
        raise SystemExit(f"demo: `gqmm {' '.join(arguments)}` failed")


def heading(text: str) -> None:
    print(f"\n{text}\n{'─' * len(text)}", flush=True)
