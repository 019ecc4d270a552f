"""Where the time of a case goes: in gqmm's functions, in each operation that is left to MLX, and in Python."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
from gqmm.mlx._load import extension
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from .jobs import Job, finish
from .operations import Operations
from .sides import Side

PROFILE_SECONDS = 2.0  # of all calls of a side and case together
LEAST_CALLS = 3  # with a profile, and as many without one, unless these take MOST_SECONDS
MOST_SECONDS = 15.0
BORDERS = 200  # operations that compute nothing, whose time tells what a border costs


class _CacheIsComplete(Exception):  # noqa: N818  (it ends a call; nothing went wrong)
    """Ends a prompt when the last layer's cache has its keys and values: mlx_lm.generate evaluates nothing after that."""


def arrays_in(values: Any) -> list[mx.array]:
    return [value for _, value in tree_flatten(values) if type(value) is mx.array]


class Profile:
    """The seconds of each operation: the part that gqmm computed, and the rest, which is MLX's.

    MLX is lazy, so the arguments of an operation are evaluated before it begins, and its result before the next one. Each such
    border costs time, which is measured with an operation that computes nothing, and taken off. `clock` gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.calls: Counter[str] = Counter()
        self.ours: defaultdict[str, float] = defaultdict(float)
        self.others: defaultdict[str, float] = defaultdict(float)
        self.operations = Operations(self.section)
        self.border = self.seconds_of_border()

    def seconds_of_border(self) -> float:
        one, seconds = mx.array([1.0]), []
        mx.eval(one)
        for _ in range(BORDERS):
            start = self.clock()
            mx.eval(-one)
            seconds.append(self.clock() - start)
        return statistics.median(seconds)

    def section(self, name: str, function: Any, *arguments: Any, **named: Any) -> Any:
        mx.eval(arrays_in((list(arguments), named)))
        ours, start = extension.seconds_of_tasks(), self.clock()
        result = function(*arguments, **named)
        mx.eval(arrays_in([result, arguments[0] if name == "setitem" else None]))
        seconds, ours = self.clock() - start, extension.seconds_of_tasks() - ours
        self.add(name, seconds - self.border, ours)
        return result

    def add(self, name: str, seconds: float, ours: float) -> None:
        """Count a call that took this long, of which gqmm computed for `ours`."""
        self.calls[name] += 1
        self.ours[name] += ours
        self.others[name] += max(0.0, seconds - ours)

    def run(self, job: Job) -> float:
        """Profile a call, and return its seconds."""
        self.calls.clear(), self.ours.clear(), self.others.clear()
        start = time.perf_counter()
        if job.case.job == "prompt":
            self.prompt(job)
        else:
            steps = job.decoding()
            next(steps), next(steps)
            finish()
            start = time.perf_counter()
            with self.operations.attached():
                next(steps)
                finish()
        return time.perf_counter() - start

    def prompt(self, job: Job) -> None:
        """Profile the tokens but the last one, in one chunk, and then the last one."""
        model, cache = job.model.model, make_prompt_cache(job.model.model)

        @contextlib.contextmanager
        def until_the_last_cache() -> Iterator[None]:
            update = cache[-1].update_and_fetch

            def final(keys: mx.array, values: mx.array) -> None:
                update(keys, values)
                raise _CacheIsComplete

            cache[-1].update_and_fetch = final
            with contextlib.suppress(_CacheIsComplete):
                yield
            del cache[-1].update_and_fetch

        with self.operations.attached():
            if job.case.tokens > 1:
                with until_the_last_cache():
                    model(job.tokens[None, :-1], cache=cache)
            mx.eval(model(job.tokens[None, -1:], cache=cache))


def breakdown(job: Job, side: Side) -> dict[str, Any]:
    """Measure where the time goes. Calls with a profile and calls without one alternate."""
    alone, ours_alone, in_parts, profile = [], [], [], Profile()
    seconds_of: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)  # by operation, of each profiled call
    with side.installed():
        job.turn()
        start = time.perf_counter()
        while time.perf_counter() - start < (PROFILE_SECONDS if len(in_parts) >= LEAST_CALLS else MOST_SECONDS):
            alone.append(job.turn())
            ours_alone.append(job.ours)
            in_parts.append(profile.run(job))
            for name in profile.calls:
                seconds_of[name].append((profile.ours[name], profile.others[name]))
    operations = []
    for name, samples in seconds_of.items():
        ours, others = (statistics.median(part) for part in zip(*samples, strict=True))
        operations.append({"operation": name, "calls": profile.calls[name], "ours": ours, "others": others})
    operations.sort(key=lambda each: -each["ours"] - each["others"])
    return {"calls": len(in_parts), "alone": alone, "ours_alone": ours_alone, "border": profile.border, "operations": operations}
