"""Run a real mixture-of-experts language model in which gqmm computes every quantized product.

`./dev demo` runs this after the build. It shows the machine, and checks the checkpoint's expert tensors against the reference.
It compares the model's loss with the published figure, and writes text. It does the same with stock MLX and compares the speeds.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

# NumPy gets one thread. Attention's matrices are small, so more threads would not pay, and they would disturb gqmm's threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import demo_parts
import gqmm
import numpy as np
from demo_parts import (
    MODEL,
    PROMPT,
    SEED,
    TEMPERATURE,
    TOLERANCE,
    WINDOW,
    common_tokens,
    gqmm_program,
    heading,
    published_loss,
    table,
    validation_tokens,
)
from qwen3_moe import Model, generate, losses
from tokenizers import Tokenizer


class StockMlx:
    """MLX's own operators on the CPU.

    as_weight makes the arrays of the weights once. Activations are NumPy's arrays, and their conversion is part of the time.
    """

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
    """Operators that add up the seconds that their calls take."""

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


class Side(demo_parts.Side):
    """One side of the comparison: the model with one set of operators."""

    def __init__(self, name: str, model: Path, operators: Any, as_weight: Callable[[np.ndarray], Any] = np.asarray):
        super().__init__(name)
        self.operators = Timed(operators)
        self.model = Model(model, self.operators, as_weight)

    def read(self, tokens: list[int]) -> float:
        """Return the mean loss over the tokens."""
        predictions = len(tokens) - 1
        windows = self.timed("reading", losses(self.model, tokens, WINDOW), -(-predictions // WINDOW), predictions)
        return float(np.mean(np.concatenate(windows)))

    def write(self, prompt: list[int], count: int, temperature: float, seed: int) -> list[int]:
        return self.timed("writing", generate(self.model, prompt, count, temperature, seed), count, count)

    def timed(self, job: str, steps: Iterable[Any], total: int, tokens: int) -> list[Any]:
        self.operators.seconds = 0.0
        results = super().timed(job, steps, total, tokens)
        self.rows[f"{job}, operators alone"] = tokens / self.operators.seconds
        return results


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of the model")
    parser.add_argument("--prompt", default=PROMPT, help="the text that the model continues")
    parser.add_argument("--tokens", type=int, default=200, help="number of tokens to write (200)")
    parser.add_argument(
        "--temperature", type=float, default=TEMPERATURE, help="temperature of the sampling; 0 is greedy (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the sampling (%(default)s)")
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
    same = common_tokens(tokens, their_tokens)
    print(f"MLX's loss {their_loss:.5f}, {'the same text' if same == len(tokens) else f'the same text for {same} tokens'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
