"""Compare mlx-lm as it is with mlx-lm on gqmm.mlx: losses, texts and speeds of the same model, and the profile of a layer.

`./dev demo mlx` runs this after the build. Neither mlx-lm nor the model is changed. The only difference is gqmm.mlx.install().
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import itertools
import math
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all models are local folders
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it would warn that PyTorch is missing, which is not needed here

import demo_parts
from demo_parts import (
    MODEL,
    PREDICTIONS,
    PROMPT,
    SEED,
    TEMPERATURE,
    TOLERANCE,
    WINDOW,
    common_tokens,
    gqmm_program,
    heading,
    other_models,
    published_loss,
    table,
    validation_tokens,
)
from tokenizers import Tokenizer

COLUMN = 62  # the width of a column of text, in characters
PROFILED = 16  # tokens; stock MLX takes half a second for each
SLOW = 4  # in bfloat16 only a fraction 1 / SLOW of the text is read, because stock MLX is so slow


@dataclass
class Work:
    """The work of both sides: tokens to read, and text to write."""

    reading: list[int]
    prompt: list[int]
    tokens: int
    temperature: float
    seed: int


class Side(demo_parts.Side):
    """mlx-lm with one kind of products. `products()` is a context manager in which they are installed."""

    def __init__(self, name: str, model: Any, tokenizer: Any, products: Callable[[], contextlib.AbstractContextManager[Any]]):
        super().__init__(name)
        self.model, self.tokenizer, self.products = model, tokenizer, products

    def run(self, work: Work) -> tuple[list[float], list[int]]:
        """Return the loss of each prediction in the tokens that are read, and the tokens that are written."""
        import mlx.core as mx

        with self.products():
            mx.eval(self.model(mx.array([work.prompt])))  # MLX compiles its kernels at their first use
            predictions = len(work.reading) - 1
            windows = self.timed("reading", self._losses(work.reading), -(-predictions // WINDOW), predictions)
            tokens = self.timed("writing", self._tokens(work), work.tokens, work.tokens)
        return [loss for window in windows for loss in window], tokens

    def _losses(self, tokens: list[int]) -> Iterator[list[float]]:
        """Yield the losses of each window. Each window starts with an empty cache."""
        import mlx.core as mx
        import mlx.nn as nn

        for start in range(0, len(tokens) - 1, WINDOW):
            window = mx.array(tokens[start : start + WINDOW + 1])
            logits = self.model(window[None, :-1])[0].astype(mx.float32)
            yield nn.losses.cross_entropy(logits, window[1:], reduction="none").tolist()

    def _tokens(self, work: Work) -> Iterator[int]:
        import mlx.core as mx
        from mlx_lm.generate import generate_step
        from mlx_lm.sample_utils import make_sampler

        mx.random.seed(work.seed)
        steps = generate_step(mx.array(work.prompt), self.model, max_tokens=work.tokens, sampler=make_sampler(work.temperature))
        return (int(token) for token, _ in itertools.islice(steps, work.tokens))


def distance(losses: list[float], others: list[float]) -> float:
    """Return the root mean square of the differences. The longer list is cut to the length of the other."""
    return math.sqrt(fmean((one - other) ** 2 for one, other in zip(losses, others, strict=False)))


def side_by_side(left: str, right: str) -> None:
    columns = [[part for line in text.splitlines() for part in textwrap.wrap(line, COLUMN) or [""]] for text in (left, right)]
    for one, other in itertools.zip_longest(*columns, fillvalue=""):
        print(f"{one:{COLUMN}} │ {other}".rstrip())


def compare(folder: Path, options: argparse.Namespace) -> bool:
    """Compare both sides with one model, in float32 and in bfloat16. Return whether the float32 losses are right."""
    import gqmm.mlx
    import mlx.core as mx
    from mlx_lm import load

    model, tokenizer = load(str(folder))
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    reading = validation_tokens(folder if (folder.parent / "valid.txt").is_file() else MODEL, plain)[: options.predictions + 1]
    prompt = plain.encode(options.prompt).ids
    passed, float32_losses = True, []
    for dtype in ("float32", "bfloat16"):
        model.set_dtype(getattr(mx, dtype))
        mx.eval(model.parameters())
        predictions = (len(reading) - 1) // (1 if dtype == "float32" else SLOW)
        work = Work(reading[: predictions + 1], prompt, options.tokens, options.temperature, options.seed)
        heading(f"{folder.name}, {dtype}: the loss of {predictions:,} predictions, {options.tokens} tokens of text")
        ours = Side("gqmm.mlx", model, tokenizer, lambda: gqmm.mlx.install(precision=options.precision, pack=options.pack))
        stock = Side(f"MLX {importlib.metadata.version('mlx')}", model, tokenizer, contextlib.nullcontext)
        (our_losses, our_tokens), (their_losses, their_tokens) = ours.run(work), stock.run(work)
        our_loss, their_loss = fmean(our_losses), fmean(their_losses)
        print(f"loss {our_loss:.5f} with gqmm.mlx, {their_loss:.5f} without", end="")
        if dtype == "float32":
            float32_losses = their_losses
            expected = [their_loss]
            if predictions == PREDICTIONS and (published := published_loss(folder)) is not None:
                expected.append(published)
                print(f", published {published:.5f}", end="")
            passed = options.precision == "fast" or all(abs(our_loss - loss) <= TOLERANCE for loss in expected)
        else:
            ours_off, theirs_off = (distance(losses, float32_losses) for losses in (our_losses, their_losses))
            print(f"; {fmean(float32_losses[:predictions]):.5f} in float32")
            print("off float32's loss of the same prediction, root mean square: ", end="")
            print(f"{ours_off:.3f} with gqmm.mlx, {theirs_off:.3f} without", end="")
        print()
        show_texts(options.prompt, *(tokenizer.decode(tokens) for tokens in (our_tokens, their_tokens)),
                   same=common_tokens(our_tokens, their_tokens), count=len(our_tokens))  # fmt: skip
        table(ours, stock)
    return passed


def show_texts(prompt: str, ours: str, theirs: str, *, same: int, count: int) -> None:
    if same == count:
        print("\nBoth write:\n")
        print((prompt + ours).strip() + "\n")
        return
    print(f"\nThe same text for {same} of {count} tokens. With gqmm.mlx, and without:\n")
    side_by_side((prompt + ours).strip(), (prompt + theirs).strip())
    print()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("models", nargs="*", type=Path,
                        help="folders of models (the one in models/, and those in GQMM_TEST_MODELS)")  # fmt: skip
    parser.add_argument("--prompt", default=PROMPT, help="the text that the model continues")
    parser.add_argument("--tokens", type=int, default=100, help="number of tokens to write (%(default)s)")
    parser.add_argument("--predictions", type=int, default=PREDICTIONS,
                        help=f"predictions of the loss in float32; bfloat16 has a {SLOW}th of them (%(default)s)")  # fmt: skip
    parser.add_argument("--temperature", type=float, default=TEMPERATURE,
                        help="temperature of the sampling; 0 is greedy (%(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the sampling (%(default)s)")
    parser.add_argument("--precision", default="default", choices=["default", "fast", "float32"], help="precision of gqmm.mlx")
    parser.add_argument("--pack", action="store_true", help="gqmm.mlx packs weights")
    options = parser.parse_args()
    if options.tokens < 1 or not SLOW <= options.predictions <= PREDICTIONS or not options.prompt:
        parser.error(f"--tokens must be positive, --predictions {SLOW} to {PREDICTIONS}, and --prompt must not be empty")
    others = [folder for folder in other_models() if folder.name != MODEL.name]
    options.models = [folder.absolute() for folder in options.models or [MODEL, *others]]
    if missing := [str(folder) for folder in options.models if not (folder / "config.json").is_file()]:
        parser.error(f"no model in {', '.join(missing)}: there is no config.json")
    return options


def profile_of_a_layer(options: argparse.Namespace) -> None:
    """Print where the time of a layer of Qwen3-30B-A3B goes, with gqmm.mlx and without: some tokens at once, and one token."""
    heading(f"A layer of Qwen3-30B-A3B, bfloat16: {PROFILED} tokens at once, and one token after them")
    gqmm_program("bench", "mlx-lm", "--python", sys.executable, "--prompts", str(PROFILED), "--decode", str(PROFILED),
                 "--dtype", "bfloat16", "--precision", options.precision, *(["--pack"] if options.pack else []),
                 "--repetitions", "1", "--tiny-turns", "0", "--profile-stock")  # fmt: skip


def main() -> int:
    options = parse_arguments()
    for module, what in {"mlx_lm": "mlx-lm", "gqmm.mlx": "a gqmm that has gqmm.mlx"}.items():
        if importlib.util.find_spec(module) is None:
            raise SystemExit(f"demo: {what} is not installed; `./dev demo mlx` installs it")
    import gqmm.mlx
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    heading("Machine")
    gqmm_program("info")
    failed = [folder.name for folder in options.models if not compare(folder, options)]
    profile_of_a_layer(options)
    heading("What gqmm.mlx did")
    with gqmm.mlx.install(precision=options.precision, pack=options.pack):
        print(gqmm.mlx.status())
    if failed:
        print(f"demo: {', '.join(failed)}: the float32 losses differ by more than {TOLERANCE:.0e}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
