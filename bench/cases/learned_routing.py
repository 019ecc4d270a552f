"""Count how often the routers of a real model choose each expert, for the table of `gqmm bench --routing learned`.

    python bench/cases/learned_routing.py [--model FOLDER] [--tokens N]

The program runs the model of examples/qwen3_moe.py over the first tokens of the text beside it. The text is cut into windows as
for the published losses. The program prints bench/cases/learned_routing.txt.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))

import gqmm  # noqa: E402
from qwen3_moe import Model  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

TOKENS, WINDOW = 2048, 256


class RecordingOperators:
    """gqmm's operators, which record the experts that each token uses in each layer."""

    quantized_matmul = staticmethod(gqmm.quantized_matmul)
    dequantize = staticmethod(gqmm.dequantize)

    def __init__(self) -> None:
        self.chosen: list[np.ndarray] = []

    def gather_qmm(self, x: np.ndarray, *weights: Any, rhs_indices: np.ndarray, **settings: Any) -> np.ndarray:
        self.chosen.append(rhs_indices)
        return gqmm.gather_qmm(x, *weights, rhs_indices=rhs_indices, **settings)


def count(folder: Path, tokens: int) -> np.ndarray:
    """Count how often each expert of each layer is chosen. The result has shape (layers, experts)."""
    text = (folder.parent / "valid.txt").read_text(encoding="utf-8")
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids[:tokens]
    operators = RecordingOperators()
    model = Model(folder, operators)
    layers, experts = model.config["num_hidden_layers"], model.config["num_experts"]
    counts = np.zeros((layers, experts), np.int64)
    for start in range(0, len(ids), WINDOW):
        operators.chosen.clear()
        model(ids[start : start + WINDOW])
        products = len(operators.chosen) // layers  # gate, up and down, which use the same experts
        for layer, chosen in enumerate(operators.chosen[::products]):
            counts[layer] += np.bincount(chosen.ravel(), minlength=experts)
    return counts


def table(counts: np.ndarray, name: str, tokens: int) -> str:
    top = counts[0].sum() // tokens
    lines = [
        f"# How often the routers of models/{name} choose each of {counts.shape[1]} experts (top {top}), a line per layer,",
        f"# over the first {tokens} tokens of models/valid.txt in windows of {WINDOW}. Made by bench/cases/learned_routing.py.",
    ]
    return "\n".join(lines + [" ".join(map(str, layer)) for layer in counts]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "shakespeare-moe-affine4", help="folder of the model")
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"number of tokens to read from the text ({TOKENS})")
    options = parser.parse_args()
    print(table(count(options.model, options.tokens), options.model.name, options.tokens), end="")


if __name__ == "__main__":
    main()
