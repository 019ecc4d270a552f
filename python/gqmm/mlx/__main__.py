"""Run a Python program on MLX with gqmm's products: ``python -m gqmm.mlx -m mlx_lm generate --model …``."""

from __future__ import annotations

import argparse
import contextlib
import os
import runpy
import sys
from typing import TYPE_CHECKING, NoReturn

import mlx.core as mx

from gqmm.mlx import OPERATORS, install, status
from gqmm.mlx._operators import selected_operators
from gqmm.mlx._receipt import Settings, receipt
from gqmm.mlx._shard_loaded import shard_loaded_experts

if TYPE_CHECKING:
    from gqmm.mlx import ShardReport


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _run(program: list[str], is_module: bool) -> None:
    """Run it as Python would. What it leaves to be computed is computed at its end."""
    sys.argv = program
    if is_module:
        runpy.run_module(program[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(program[0]))  # where python -m put the current folder
        runpy.run_path(program[0], run_name="__main__")
    # mlx-lm starts a token more than it gives out. Where a model is divided, other ranks wait for this rank's part of it, and
    # raise an error if this process ends before. So `mlx_lm benchmark --pipeline` would fail.
    stream = getattr(sys.modules.get("mlx_lm.generate"), "generation_stream", None)
    if stream is not None:
        with contextlib.suppress(RuntimeError):  # another rank has ended early, and its own error says why
            mx.synchronize(stream)


def _print_receipt(parser: argparse.ArgumentParser, options: argparse.Namespace) -> NoReturn:
    """Print the receipt of the model, and end the process."""
    settings = Settings(options.only, options.without, options.precision, options.pack)
    try:
        if options.module or options.script or options.shard_experts:
            raise ValueError("--receipt runs no program, and on one rank: leave out -m, the script and --shard-experts")
        selected_operators(options.only, options.without)
        found = receipt(options.receipt, settings)
    except ValueError as error:
        parser.error(str(error))
    except RuntimeError as error:
        sys.exit(str(error))
    print(found)
    sys.exit(1 if found.other else 0)


def main() -> None:
    """Install gqmm's functions, then run the module or script with the arguments that follow its name."""
    parser = argparse.ArgumentParser(
        prog="python -m gqmm.mlx",
        usage="%(prog)s [options] (-m MODULE | SCRIPT) [ARGUMENT ...]\n       %(prog)s [options] --receipt MODEL",
        description="Runs a module or script on MLX, with gqmm's operators instead of MLX's on the CPU.",
    )
    parser.add_argument("--precision", choices=["default", "fast", "float32"], default="default", help="as in gqmm.gather_qmm")
    parser.add_argument("--pack", action="store_true", help="copy weights into the kernels' order: faster, more memory")
    parser.add_argument("--only", type=_names, metavar="A,B", help=f"replace these alone of {', '.join(OPERATORS)}")
    parser.add_argument("--without", type=_names, default=(), metavar="A,B", help="replace all but these")
    parser.add_argument(
        "--shard-experts",
        choices=["contiguous", "round_robin"],
        help="divide the experts of models that mlx-lm loads over the ranks of mx.distributed; only rank 0 prints",
    )
    parser.add_argument(
        "--status", action="store_true", help="at the end, print to stderr what was replaced and how often it ran"
    )
    parser.add_argument(
        "--receipt",
        metavar="MODEL",
        help="run no program: evaluate this checkpoint of mlx-lm in every way that must give the same bits, and print a digest "
        "of its logits and what it covers; the exit status is 1 if a way gives other bits",
    )
    parser.add_argument(
        "-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE", help="the module to run, as python -m does"
    )
    parser.add_argument("script", nargs=argparse.REMAINDER, metavar="SCRIPT", help="the script to run, and its arguments")
    options = parser.parse_args()
    program = options.module or options.script
    if options.receipt is not None:
        _print_receipt(parser, options)
    if not program:
        parser.error("name a module with -m, or a script")
    if not options.module and not os.path.exists(program[0]):
        parser.error(f"{program[0]}: no such file")

    try:
        install(only=options.only, without=options.without, precision=options.precision, pack=options.pack)
    except ValueError as error:
        parser.error(str(error))
    reports: list[ShardReport] = []
    with contextlib.ExitStack() as stack:
        if options.shard_experts and shard_loaded_experts(options.shard_experts, reports.append).rank() > 0:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        try:
            _run(program, bool(options.module))
        finally:
            if options.status:
                print(*reports, status(), sep="\n", file=sys.stderr)


if __name__ == "__main__":
    main()
