"""The main job on a real model: a mixture-of-experts language model whose every quantized product is gqmm's.

`./dev demo` runs this after the build. It shows the machine, checks the checkpoint's expert tensors against the reference,
measures the model's loss against the published figure and writes text, side by side with the same loop over stock MLX.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

# Attention's matrices are small: threads of NumPy's own would cost more than they give, and stand in the way of the operators'.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import gqmm
import numpy as np
from qwen3_moe import Model, generate, losses
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
PREDICTIONS, WINDOW = 2048, 256  # of the published losses
TOLERANCE = 1e-4  # nats per token: both sides compute in float32


class StockMlx:
    """MLX's own operators on the CPU. Its weights are arrays that as_weight made, once; activations are NumPy's, whose conversion
    is part of the time it takes."""

    def __init__(self) -> None:
        import mlx.core

        mlx.core.set_default_device(mlx.core.cpu)
        self.mx = mlx.core

    def as_weight(self, array: np.ndarray) -> Any:
        return self.mx.array(np.ascontiguousarray(array))

    def quantized_matmul(self, x: np.ndarray, *weights: Any, **settings: Any) -> np.ndarray:
        return np.array(self.mx.quantized_matmul(self.mx.array(x), *weights, **settings))

    def gather_qmm(
        self, x: np.ndarray, *weights: Any, lhs_indices: np.ndarray, rhs_indices: np.ndarray, **settings: Any
    ) -> np.ndarray:
        indices = {"lhs_indices": self.mx.array(lhs_indices), "rhs_indices": self.mx.array(rhs_indices)}
        return np.array(self.mx.gather_qmm(self.mx.array(x), *weights, **indices, **settings))

    def dequantize(self, *weights: np.ndarray | None, **settings: Any) -> np.ndarray:
        arrays = [None if array is None else self.as_weight(array) for array in weights]
        return np.array(self.mx.dequantize(*arrays, dtype=self.mx.float32, **settings))


class Timed:
    """Operators that add up the seconds spent in them."""

    def __init__(self, operators: Any):
        self.operators, self.seconds = operators, 0.0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operator = getattr(self.operators, name)

        def timed(*arguments: Any, **settings: Any) -> Any:
            start = time.perf_counter()
            result = operator(*arguments, **settings)
            self.seconds += time.perf_counter() - start
            return result

        return timed


class Side:
    """One side of the comparison: the model over one set of operators, what it made and how long it took."""

    def __init__(self, name: str, model: Path, operators: Any, as_weight: Callable[[np.ndarray], Any] = np.asarray):
        self.name, self.operators = name, Timed(operators)
        self.model = Model(model, self.operators, as_weight)
        self.rows: dict[str, float] = {}  # tokens per second

    def read(self, tokens: list[int]) -> float:
        """The mean loss over the tokens."""
        predictions = len(tokens) - 1
        windows = self._timed("reading", losses(self.model, tokens, WINDOW), -(-predictions // WINDOW), predictions)
        return float(np.mean(np.concatenate(windows)))

    def write(self, prompt: list[int], count: int, temperature: float, seed: int) -> list[int]:
        return self._timed("writing", generate(self.model, prompt, count, temperature, seed), count, count)

    def _timed(self, job: str, steps: Iterable[Any], total: int, tokens: int) -> list[Any]:
        self.operators.seconds, start = 0.0, time.perf_counter()
        results = list(progress(steps, total, f"{self.name}, {job}"))
        self.rows[job] = tokens / (time.perf_counter() - start)
        self.rows[f"{job}, products alone"] = tokens / self.operators.seconds
        return results


def progress(steps: Iterable[Any], total: int, label: str) -> Iterator[Any]:
    """The steps, with a bar that is wiped at the end; on a terminal only."""
    on_terminal = sys.stdout.isatty()
    for done, step in enumerate(steps, start=1):
        yield step
        if on_terminal:
            print(f"\r{label:20} {'█' * (30 * done // total):░<30} {done:4} of {total}", end="", flush=True)
    if on_terminal:
        print("\r\033[K", end="", flush=True)


def published_loss(model: Path) -> float | None:
    """The float32 loss that the README beside the model's folder gives for it."""
    readme, name = model.parent / "README.md", re.escape(model.name.rpartition("-")[2])
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    row = re.search(rf"^\| *{name} *\| *(\d+\.\d+) *\|", text, re.MULTILINE)
    return float(row[1]) if row else None


def validation_tokens(model: Path, tokenizer: Tokenizer) -> list[int]:
    """The tokens that the published losses are over. The text is encoded whole: a cut would move token boundaries."""
    return tokenizer.encode((model.parent / "valid.txt").read_text(encoding="utf-8")).ids[: PREDICTIONS + 1]


def gqmm_program(*arguments: str) -> None:
    """Runs the gqmm program that is installed beside this Python, else the one on the PATH, and ends here if it fails."""
    program = shutil.which("gqmm", path=Path(sys.executable).parent) or shutil.which("gqmm")
    if program is None:
        raise SystemExit("demo: the program gqmm is neither beside this Python nor on the PATH; `./dev demo` installs it")
    if subprocess.run([program, *arguments], check=False).returncode != 0:
        raise SystemExit(f"demo: `gqmm {' '.join(arguments)}` failed")


def heading(text: str) -> None:
    print(f"\n{text}\n{'─' * len(text)}", flush=True)


def table(ours: Side, theirs: Side | None = None) -> None:
    print(f"{'tokens/s':28}{ours.name:>12}" + (f"{theirs.name:>16}{'ratio':>10}" if theirs else ""))
    for name, value in ours.rows.items():
        print(f"{name:28}{value:12,.0f}" + (f"{theirs.rows[name]:16,.0f}{value / theirs.rows[name]:9.1f}×" if theirs else ""))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "shakespeare-moe-affine4", help="its folder")
    parser.add_argument("--prompt", default="ROMEO:\n", help="the text to go on from")
    parser.add_argument("--tokens", type=int, default=200, help="tokens to write (200)")
    parser.add_argument("--temperature", type=float, default=0.7, help="of the sampling; 0 is greedy (0.7)")
    parser.add_argument("--seed", type=int, default=7, help="of the sampling (7)")
    parser.add_argument("--no-mlx", action="store_true", help="leave out the comparison with stock MLX")
    options = parser.parse_args()
    if options.tokens < 1 or not options.prompt:
        parser.error("--tokens must be positive and --prompt must not be empty")
    options.model = options.model.absolute()
    return options


def main() -> int:
    options = parse_arguments()
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    writing = (tokenizer.encode(options.prompt).ids, options.tokens, options.temperature, options.seed)
    reading = validation_tokens(options.model, tokenizer)

    heading("Machine")
    gqmm_program("info")

    heading(f"Expert tensors of {options.model.name} against the float64 reference")
    gqmm_program("check", str(options.model))

    heading(f"Loss over {len(reading) - 1:,} predictions, windows of {WINDOW} tokens, float32")
    ours, published = Side("gqmm", options.model, gqmm), published_loss(options.model)
    loss = ours.read(reading)
    print(f"loss {loss:.5f} (published {'nowhere' if published is None else f'{published:.5f}'})")
    if published is not None and not abs(loss - published) <= TOLERANCE:
        print(f"demo: the losses differ by {abs(loss - published):.1e}, more than {TOLERANCE:.0e}", file=sys.stderr)
        return 1

    heading(f"Text: {options.tokens} tokens, temperature {options.temperature:g}, seed {options.seed}")
    tokens = ours.write(*writing)
    print((options.prompt + tokenizer.decode(tokens)).strip())

    if options.no_mlx or importlib.util.find_spec("mlx") is None:
        heading("Speed (without MLX)")
        table(ours)
        return 0
    heading("Speed, beside the same loop over stock mx.gather_qmm and mx.quantized_matmul")
    stock = StockMlx()
    theirs = Side(f"MLX {importlib.metadata.version('mlx')}", options.model, stock, stock.as_weight)
    their_loss, their_tokens = theirs.read(reading), theirs.write(*writing)
    table(ours, theirs)
    same = next((i for i, (a, b) in enumerate(zip(tokens, their_tokens, strict=True)) if a != b), len(tokens))
    print(f"MLX's loss {their_loss:.5f}, {'the same text' if same == len(tokens) else f'the same text for {same} tokens'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
