"""Runs a case through mlx-lm's own generate path, as `mlx_lm.generate` and its batches do."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
from gqmm.mlx._load import extension
from mlx_lm.generate import BatchGenerator, generate_step, generation_stream
from mlx_lm.models.cache import make_prompt_cache

from .model import RandomModel
from .sides import Side
from .work import Case

TURN_SECONDS = 0.3  # a side measures this long before the next side's turn, or for one call if that takes longer


def finish() -> None:
    """Wait for what mlx-lm has begun. A step begins before the token of the step before it is used."""
    mx.synchronize(generation_stream)


class Job:
    """A case on a model, whose type is that of the side."""

    def __init__(self, model: RandomModel, case: Case) -> None:
        self.model, self.case = model, case
        self.random = random.Random(1)
        mx.random.seed(2)
        self.tokens = mx.random.randint(0, model.shape.vocabulary, (case.tokens,))
        self.cache: list[Any] | None = None  # of the tokens, once it is needed
        self.ours = 0.0  # the seconds that gqmm's functions took of a call in the last turn

    def sample(self, logprobs: mx.array) -> mx.array:
        """Sample another token in every step, so that every step has other experts. It depends on the logits all the same."""
        return (mx.argmax(logprobs, axis=-1) + self.random.randrange(self.model.shape.vocabulary)) % self.model.shape.vocabulary

    def steps(self, prompt: mx.array, cache: list[Any], max_tokens: int) -> Iterator[Any]:
        return iter(generate_step(prompt, self.model.model, max_tokens=max_tokens, prompt_cache=cache, sampler=self.sample))

    def prompt(self) -> list[Any]:
        """Evaluate the prompt, and return its cache. It ends when the token after the prompt is known."""
        cache = make_prompt_cache(self.model.model)
        for _ in self.steps(self.tokens, cache, 0):  # no token after that one
            pass
        return cache

    def filled(self) -> list[Any]:
        """Return a copy of the cache of the prompt, which gqmm computes once."""
        if self.cache is None:
            with Side("gqmm", "").installed():
                self.cache = self.prompt()
                mx.eval([part.state for part in self.cache])
        return copy.deepcopy(self.cache)

    def decoding(self) -> Iterator[Any]:
        """Decode tokens after the prompt. Each iteration is a step, of all requests. The first two steps include preparations."""
        first = self.random.randrange(self.model.shape.vocabulary)
        if self.case.requests == 1:
            yield from self.steps(mx.array([first]), self.filled(), -1)
        batch = BatchGenerator(self.model.model, sampler=self.sample, completion_batch_size=self.case.requests,
                               prefill_batch_size=self.case.requests)  # fmt: skip
        prompts = [[first + i] for i in range(self.case.requests)]
        batch.insert([[token % self.model.shape.vocabulary for token in prompt] for prompt in prompts],
                     [2**30] * len(prompts), [self.filled() for _ in prompts])  # fmt: skip
        while True:
            yield batch.next_generated()

    def measure(self, call: Callable[[], Any], at_least: float) -> float:
        """Return the mean seconds of as many calls as take so long, at least one. `self.ours` is gqmm's part of it."""
        count, ours, start = 0, extension.seconds_of_tasks(), time.perf_counter()
        while count == 0 or time.perf_counter() - start < at_least:
            call()
            count += 1
        seconds = (time.perf_counter() - start) / count
        self.ours = (extension.seconds_of_tasks() - ours) / count
        return seconds

    def turn(self) -> float:
        """Return the seconds of a call, as the mean over a turn."""
        call: Callable[[], Any]
        if self.case.job == "prompt":
            call = self.prompt
        else:
            steps = self.decoding()
            call = steps.__next__
            call(), call()
        # A short call is made once before, because the other side has filled the caches with its own data.
        seconds = self.measure(call, 0)
        if seconds < TURN_SECONDS:
            seconds = self.measure(call, TURN_SECONDS)
        finish()
        return seconds
