"""Measure one layer of a mixture-of-experts model through mlx-lm, with MLX's own products and with gqmm.mlx's.

`gqmm bench mlx-lm` starts this script. It reads one JSON object with the settings from standard input. It writes JSON objects to
standard output, one in each line:

    {"done": 0 to 1, "doing": "…"}   the progress, any number of times
    {"figures": {…}}                 the end: docs/dev/benchmarking.md lists the fields; times are samples, in seconds
    {"error": "…"}                   the end after a failure

The script must not be called mlx_lm.py, because `import mlx_lm` would then find the script itself.
"""

import contextlib
import gc
import importlib.metadata
import importlib.util
import itertools
import json
import math
import os
import platform
import signal
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

NEEDED = {"mlx.core": "mlx[cpu]==0.32.4", "mlx_lm": "mlx-lm==0.32.2"}
PRODUCTS = ("gather_qmm", "quantized_matmul", "gather_mm")
JOBS = ("prompt", "decode")
PARTS = ("attention", "routing", "experts", "embedding", "head", "norms and sums")
TURN_SECONDS = 0.2  # a side measures this long before the other side's turn, or for one call if that takes longer
PROFILE_SECONDS = 1.0
ROUTED_STEPS = 64
TINY_CALLS = 200  # calls of a turn
TINY_CALLS_PER_EVAL = (1, 100)  # with 1, MLX's thread must wake for each call; with 100, the calls are as within a model


class NotInstalledError(Exception):
    """An error for a package that is not installed. The message says how to install it."""


def is_missing(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:  # the package of the module is missing
        return True


def check_installed() -> None:
    packages = [f"'{package}'" for module, package in NEEDED.items() if is_missing(module)]
    if packages:
        raise NotInstalledError(f"{sys.executable} lacks what this benchmark measures; `./dev bench mlx-lm` installs it, as does "
                                f"`{sys.executable} -m pip install {' '.join(packages)}`")  # fmt: skip
    if is_missing("gqmm.mlx"):
        what = "gqmm" if is_missing("gqmm") else "gqmm.mlx, which newer versions of gqmm have"
        pip = f"`{sys.executable} -m pip install .`"
        raise NotInstalledError(f"{sys.executable} lacks {what}; {pip} in gqmm's sources installs it")


class Layer:
    """mlx-lm's Qwen3-MoE model with one layer of random weights, which are quantized as mlx-lm does it."""

    def __init__(self, settings: dict[str, Any], dtype: str) -> None:
        import mlx.core as mx
        import mlx.nn as nn
        from mlx_lm.models import cache, qwen3_moe

        mx.set_default_device(mx.cpu)
        mx.random.seed(1)
        self.mx, self.caches, self.vocabulary = mx, cache, settings["vocabulary"]
        self.model = qwen3_moe.Model(
            qwen3_moe.ModelArgs(
                model_type="qwen3_moe",
                num_hidden_layers=1,
                hidden_size=settings["hidden"],
                intermediate_size=settings["width"],  # the width of dense layers, which this model does not have
                moe_intermediate_size=settings["width"],
                num_experts=settings["experts"],
                num_experts_per_tok=settings["top"],
                num_attention_heads=settings["heads"],
                num_key_value_heads=settings["kv_heads"],
                head_dim=settings["head_dim"],
                vocab_size=self.vocabulary,
                decoder_sparse_step=1,
                mlp_only_layers=[],
                rms_norm_eps=1e-6,
                rope_theta=1e6,
                tie_word_embeddings=False,
                max_position_embeddings=40960,
                norm_topk_prob=True,
            )
        )
        # The embeddings get the size of what attention adds. If they were smaller, the prompt, which all tokens share, would
        # decide which experts a token gets.
        embedding = self.model.model.embed_tokens
        embedding.weight = embedding.weight * math.sqrt(settings["hidden"])
        self.model.set_dtype(getattr(mx, dtype))

        def quantized(path: str, module: Any) -> Any:
            return hasattr(module, "to_quantized") and self.model.quant_predicate(path, module)

        nn.quantize(self.model, group_size=64, bits=4, class_predicate=quantized)
        mx.eval(self.model.parameters())
        self.layer = self.model.layers[0]
        self.tokens = mx.random.randint(0, self.vocabulary, (settings["tokens"],))
        self.next_token = itertools.cycle(mx.random.permutation(self.vocabulary).tolist())
        self.context = self.caches.make_prompt_cache(self.model)

    def expert_nbytes(self) -> int:
        return sum(array.nbytes for matrix in self.layer.mlp.switch_mlp.children().values() for array in matrix.values()
                   if isinstance(array, self.mx.array))  # fmt: skip

    def call(self, tokens: Any, cache: list[Any]) -> tuple[float, Any]:
        """Run the model on the tokens. Return the seconds until all results are evaluated, and the logits of all tokens."""
        start = time.perf_counter()
        logits = self.model(tokens[None], cache=cache)
        self.mx.eval(logits, [part.state for part in cache])
        return time.perf_counter() - start, logits

    def prompt(self) -> tuple[float, Any]:
        return self.call(self.tokens, self.caches.make_prompt_cache(self.model))

    def decode(self) -> tuple[float, Any]:
        """Decode one token after the prompt, a new one in every call. Afterwards the cache is as it was before."""
        if self.context[0].offset == 0:
            self.call(self.tokens, self.context)
        result = self.call(self.mx.array([next(self.next_token)]), self.context)
        self.caches.trim_prompt_cache(self.context, 1)
        return result


class Sides:
    """The two sides of the comparison: stock MLX and gqmm.mlx."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import gqmm.mlx

        self.gqmm = gqmm.mlx
        self.options = {"precision": settings["precision"], "pack": settings["pack"]}

    def ours(self) -> contextlib.AbstractContextManager[Any]:
        return self.gqmm.install(**self.options)

    def calls(self) -> dict[str, int]:
        """Count the products so far that gqmm computed, and those that it left to MLX."""
        counts = [count for name, count in self.gqmm.status().calls.items() if name in PRODUCTS]
        return {"ours": sum(count.ours for count in counts), "stock": sum(count.stock for count in counts)}


def turn(job: Callable[[], tuple[float, Any]]) -> float:
    """Return the seconds of a call, as the mean over a turn."""
    samples: list[float] = []
    while sum(samples) < TURN_SECONDS:
        samples.append(job()[0])
    return statistics.fmean(samples)


def alternate(sides: Sides, job: Callable[[], tuple[float, Any]], repetitions: int, seconds: float,
              show: Callable[[float], None]) -> dict[str, Any]:  # fmt: skip
    """Measure both sides in turns. Each turn of stock MLX is between two of gqmm's.

    Stock MLX gets as many turns as fit into the seconds, and at least one.
    """

    def ours() -> float:
        with sides.ours():
            job()  # this call is not timed, because the other side has filled the caches with its own data
            return turn(job)

    stock: list[float] = []
    before, turns, ratios = ours(), [], []
    turns.append(before)
    spent = 0.0
    while len(stock) < repetitions and (not stock or spent * (1 + 1 / len(stock)) <= seconds):
        show(max(len(stock) / repetitions, spent / seconds))
        start = time.perf_counter()
        stock.append(turn(job))
        spent += time.perf_counter() - start
        after = ours()
        ratios.append(2 * stock[-1] / (before + after))
        before = after
        turns.append(after)
    return {"stock": stock, "ours": turns, "times_faster": ratios}


def difference(layer: Layer, sides: Sides) -> float:
    """Return the relative difference between the logits of both sides, for one token.

    It is the root mean square of the differences, divided by that of stock MLX's logits. The token is the first of the prompt.
    Both sides choose the same experts for it, unless two experts have nearly equal probabilities.
    """
    mx, token = layer.mx, layer.tokens[:1]

    def logits() -> Any:
        return layer.call(token, layer.caches.make_prompt_cache(layer.model))[1].astype(mx.float32)

    theirs = logits()
    with sides.ours():
        ours = logits()
    return math.sqrt(mx.mean((ours - theirs) ** 2).item() / mx.mean(theirs**2).item())


def routing(layer: Layer, sides: Sides) -> dict[str, Any]:
    """Count how many experts two decoding steps share. It tells whether their weights can have stayed in cache."""
    chosen: list[set[int]] = []
    experts = type(layer.layer.mlp.switch_mlp)
    original = experts.__call__

    def noting(self: Any, x: Any, indices: Any) -> Any:
        chosen.append(set(indices.flatten().tolist()))
        return original(self, x, indices)

    layer.decode()
    with sides.ours(), replaced(experts, "__call__", noting):
        for _ in range(ROUTED_STEPS):
            layer.decode()
    shared = [len(one & other) for one, other in itertools.pairwise(chosen)]
    return {"steps": ROUTED_STEPS, "experts_hit": len(set().union(*chosen)), "shared_with_step_before": statistics.fmean(shared)}


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


class OtherPrograms:
    """The time that other programs take of all processors, from the construction of this object on."""

    def __init__(self) -> None:
        self.start = self.seconds()

    @staticmethod
    def seconds() -> tuple[float, float, float]:
        """Return three times in seconds: of all processors together, of their busy part, and of this process."""
        with open("/proc/stat") as file:
            user, nice, system, idle, waiting, *interrupts = (int(field) for field in file.readline().split()[1:9])
        busy = user + nice + system + sum(interrupts)
        ticks = os.sysconf("SC_CLK_TCK")
        return (busy + idle + waiting) / ticks, busy / ticks, sum(os.times()[:2])

    def share(self) -> float:
        everything, busy, own = (now - before for now, before in zip(self.seconds(), self.start, strict=True))
        return max(0.0, busy - own) / everything if everything > 0 else 0.0


class Profile:
    """The seconds of a model's parts, in products and around them. A part does not count the parts inside it.

    MLX is lazy, so each array that goes from one part to another is evaluated between them. That takes time, and work that would
    overlap does not. Therefore the sum of the parts is compared with a call without this profile.
    """

    def __init__(self, layer: Layer) -> None:
        from gqmm.mlx._load import extension
        from gqmm.mlx._slots import block_is_running

        self.mx, self.extension, self.block_is_running = layer.mx, extension, block_is_running
        model, block = layer.model, layer.layer
        self.modules = {
            id(block.self_attn): "attention",
            id(block.mlp): "routing",
            id(block.mlp.switch_mlp): "experts",
            id(model.model.embed_tokens): "embedding",
            id(model.lm_head): "head",
        }
        self.classes = {type(module) for module in (block.self_attn, block.mlp, block.mlp.switch_mlp, model.model.embed_tokens,
                                                    model.lm_head)}  # fmt: skip
        self.seconds: defaultdict[tuple[str, bool], float] = defaultdict(float)
        self.inside = [("norms and sums", False)]
        self.since = 0.0

    def charge(self) -> None:
        """Add the time since the last call of this method to the current part."""
        now = time.perf_counter()
        self.seconds[self.inside[-1]] += now - self.since
        self.since = now

    def evaluate(self, *values: Any) -> None:
        """Evaluate arrays. Slots of experts are of another class. They are left alone: their sum is what the model uses."""
        self.mx.eval([value for value in values if type(value) is self.mx.array])

    def section(self, part: tuple[str, bool], function: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
        self.evaluate(*arguments, *settings.values())
        self.charge()
        self.inside.append(part)
        result = function(*arguments, **settings)
        self.evaluate(result)
        self.charge()
        self.inside.pop()
        return result

    def module(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(module: Any, *arguments: Any, **settings: Any) -> Any:
            part = self.modules.get(id(module))
            if part is None:
                return original(module, *arguments, **settings)
            return self.section((part, False), original, module, *arguments, **settings)

        return call

    def product(self, original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **settings: self.section((self.inside[-1][0], True), original, *arguments, **settings)

    def experts(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Any, topk_ids: Any, topk_weights: Any, *arguments: Any, **settings: Any) -> Any:
            if topk_weights is None and self.block_is_running():  # a call for the sum of these slots follows
                return original(x, topk_ids, topk_weights, *arguments, **settings)
            return self.section(("experts", True), original, x, topk_ids, topk_weights, *arguments, **settings)

        return call

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for kind in self.classes:
                stack.enter_context(replaced(kind, "__call__", self.module(kind.__call__)))
            # What gqmm computes. All of its time counts as that of products.
            for owner, names in [
                (self.mx, (*PRODUCTS, "matmul", "addmm", "softmax")),
                (self.mx.array, ("__matmul__",)),
                (self.mx.fast, ("rms_norm", "layer_norm", "rope")),
                (self.extension, ("scaled_dot_product_attention", "activate_if_served")),
            ]:
                for name in names:
                    stack.enter_context(replaced(owner, name, self.product(getattr(owner, name))))
            stack.enter_context(replaced(self.extension, "moe_ffn", self.experts(self.extension.moe_ffn)))
            yield

    def run(self, job: Callable[[], tuple[float, Any]]) -> float:
        """Profile one call and return its seconds."""
        self.since = time.perf_counter()
        seconds = job()[0]
        self.charge()
        return seconds


def breakdown(layer: Layer, sides: Sides, job: Callable[[], tuple[float, Any]]) -> dict[str, Any]:
    """Measure where the time goes with gqmm.mlx. Calls with a profile and calls without one alternate."""
    profile, in_parts, alone = Profile(layer), [], []
    with sides.ours():
        job()
        while sum(in_parts) < PROFILE_SECONDS:
            alone.append(job()[0])
            with profile.attached():
                in_parts.append(profile.run(job))
    parts = [{"part": part, "products": profile.seconds[part, True] / len(in_parts),
              "around": profile.seconds[part, False] / len(in_parts)} for part in PARTS]  # fmt: skip
    return {"calls": len(in_parts), "alone": alone, "parts": parts}


def tiny_calls(sides: Sides, dtype: str, turns: int) -> Iterator[dict[str, Any]]:
    """Measure the cost of a call besides its product: one row for one of 8 experts with N = K = 64, called as by mlx-lm."""
    import mlx.core as mx

    kind = getattr(mx, dtype)
    dense = mx.random.normal((8, 64, 64)).astype(kind)
    x, expert = mx.random.normal((1, 1, 64)).astype(kind), mx.array([3], mx.uint32)
    codes = mx.quantize(dense, group_size=64, bits=4)
    one = [array[0] for array in codes]
    format_ = {"transpose": True, "group_size": 64, "bits": 4, "mode": "affine"}
    mx.eval(dense, x, expert, codes, one)
    calls: dict[str, tuple[Any, dict[str, Any]]] = {
        "gather_qmm": ((x, *codes), {"rhs_indices": expert, **format_, "global_scale": None, "sorted_indices": False}),
        "quantized_matmul": ((x[0], *one), format_),
    }
    if dtype == "float32":  # MLX's own gather_mm has no other type on the CPU
        calls["gather_mm"] = ((x, dense), {"rhs_indices": expert, "sorted_indices": False})
    for (name, (arguments, settings)), per_eval in itertools.product(calls.items(), TINY_CALLS_PER_EVAL):

        def seconds_of(function: Callable[..., Any], arguments: Any = arguments, settings: Any = settings,
                       per_eval: int = per_eval) -> float:  # fmt: skip
            start = time.perf_counter()
            for _ in range(TINY_CALLS // per_eval):
                mx.eval([function(*arguments, **settings) for _ in range(per_eval)])
            return (time.perf_counter() - start) / TINY_CALLS

        stock = getattr(mx, name)
        with sides.ours():
            ours = getattr(mx, name)
            seconds_of(stock), seconds_of(ours)
            pairs = [(seconds_of(stock), seconds_of(ours)) for _ in range(turns)]
        yield {
            "function": name,
            "dtype": dtype,
            "calls_per_eval": per_eval,
            "calls_per_turn": TINY_CALLS,
            "stock": [pair[0] for pair in pairs],
            "ours": [pair[1] for pair in pairs],
            "difference": [pair[1] - pair[0] for pair in pairs],
        }


def measure(settings: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    check_installed()
    sides = Sides(settings)
    figures: dict[str, Any] = {
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("mlx", "mlx-lm", "gqmm")},
        "cases": [],
        "tiny_calls": [],
    }
    dtypes: list[str] = settings["dtypes"]
    for i, dtype in enumerate(dtypes):
        tell({"done": i / len(dtypes), "doing": f"{dtype}: making weights"})
        layer = Layer(settings, dtype)
        # If the sides differ by more than roundings, their times cannot be compared. The reader judges that.
        common = {"dtype": dtype, "difference": difference(layer, sides), "expert_bytes": layer.expert_nbytes()}
        for j, job in enumerate(JOBS):
            before = sides.calls()

            def show(done: float, i: int = i, j: int = j, what: str = f"{dtype} {job}") -> None:
                tell({"done": (i + (j + done) / len(JOBS)) / len(dtypes), "doing": what})

            function = getattr(layer, job)
            others = OtherPrograms()
            times = alternate(sides, function, settings["repetitions"], settings["seconds"], show)
            case = {"job": job, **common, "tokens": settings["tokens"] if job == "prompt" else 1, **times}
            case["other_programs"] = others.share()
            case["breakdown"] = breakdown(layer, sides, function)
            case["calls"] = {side: count - before[side] for side, count in sides.calls().items()}
            if job == "decode":
                case["routing"] = routing(layer, sides)
            figures["cases"].append(case)
        del layer
        gc.collect()
        tell({"done": (i + 1) / len(dtypes), "doing": f"{dtype}: tiny calls"})
        figures["tiny_calls"] += tiny_calls(sides, dtype, settings["tiny_turns"])
    return figures


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Answers get a copy of standard output. What libraries print goes to standard error, so it cannot mix with the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def tell(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        tell({"figures": measure(json.loads(sys.stdin.readline()), tell)})
    except NotInstalledError as error:
        tell({"error": str(error)})
    except Exception as error:
        tell({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
