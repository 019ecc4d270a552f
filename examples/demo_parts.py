"""What the demonstrations share: the models and the text that they read, published losses, and how they print."""

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
PREDICTIONS, WINDOW = 2048, 256  # of the published losses
TOLERANCE = 1e-4  # nats per token: both sides compute in float32
SEED, TEMPERATURE, PROMPT = 7, 0.7, "ROMEO:\n"


def other_models() -> list[Path]:
    """Checkpoints in the folder that the environment variable GQMM_TEST_MODELS names, if it does."""
    folder = os.environ.get("GQMM_TEST_MODELS")
    return sorted(path.parent for path in Path(folder).glob("*/config.json")) if folder else []


def published_loss(model: Path) -> float | None:
    """The float32 loss that the README beside the model's folder gives for it."""
    readme, name = model.parent / "README.md", re.escape(model.name.rpartition("-")[2])
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    row = re.search(rf"^\| *{name} *\| *(\d+\.\d+) *\|", text, re.MULTILINE)
    return float(row[1]) if row else None


def validation_tokens(model: Path, tokenizer: Tokenizer) -> list[int]:
    """The tokens that the published losses are over. The text is encoded whole: a cut would move token boundaries."""
    return tokenizer.encode((model.parent / "valid.txt").read_text(encoding="utf-8")).ids[: PREDICTIONS + 1]


class Side:
    """One side of a comparison: its name, and how many tokens per second it does of each job."""

    def __init__(self, name: str):
        self.name = name
        self.rows: dict[str, float] = {}

    def timed(self, job: str, steps: Iterable[Any], total: int, tokens: int) -> list[Any]:
        """The results of the steps, of which there are `total`, for so many tokens."""
        start = time.perf_counter()
        results = list(progress(steps, total, f"{self.name}, {job}"))
        self.rows[job] = tokens / (time.perf_counter() - start)
        return results


def table(ours: Side, theirs: Side | None = None) -> None:
    print(f"{'tokens/s':28}{ours.name:>12}" + (f"{theirs.name:>16}{'ratio':>10}" if theirs else ""))
    for name, value in ours.rows.items():
        print(f"{name:28}{value:12,.0f}" + (f"{theirs.rows[name]:16,.0f}{value / theirs.rows[name]:9.1f}×" if theirs else ""))


def progress(steps: Iterable[Any], total: int, label: str) -> Iterator[Any]:
    """The steps, with a bar that is wiped at the end; on a terminal only."""
    on_terminal = sys.stdout.isatty()
    for done, step in enumerate(steps, start=1):
        yield step
        if on_terminal:
            print(f"\r{label:20} {'█' * (30 * done // total):░<30} {done:4} of {total}", end="", flush=True)
    if on_terminal:
        print("\r\033[K", end="", flush=True)


def common_tokens(one: list[int], other: list[int]) -> int:
    """How many tokens are the same before the first that differs."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def gqmm_program(*arguments: str) -> None:
    """Runs the gqmm program that is installed beside this Python, else the one on the PATH, and ends here if it fails."""
    program = shutil.which("gqmm", path=Path(sys.executable).parent) or shutil.which("gqmm")
    if program is None:
        raise SystemExit("demo: the program gqmm is neither beside this Python nor on the PATH; `./dev demo` installs it")
    if subprocess.run([program, *arguments], check=False).returncode != 0:
        raise SystemExit(f"demo: `gqmm {' '.join(arguments)}` failed")


def heading(text: str) -> None:
    print(f"\n{text}\n{'─' * len(text)}", flush=True)
