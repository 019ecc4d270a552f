"""Answers the requests of `gqmm bench mlx-lm`."""

from __future__ import annotations

import gc
from typing import Any

from worker import answer_requests

from .installed import check_installed, versions


class Measured:
    """A model in some types, and the case that is measured on it. What needs MLX is imported here, because it may be missing."""

    def __init__(self, shape: dict[str, Any], dtypes: list[str]) -> None:
        from .model import RandomModel, Shape

        self.models: dict[str, Any] = {}
        for dtype in sorted(dtypes, key=lambda name: name != "float32"):  # float32 first: half types would round its scales
            like = next(iter(self.models.values()), None)
            self.models[dtype] = RandomModel(Shape.of(shape), dtype, like)
        self.jobs: dict[str, Any] = {}
        self.token_seconds: dict[str, float] = {}  # of stock MLX
        self.warm: set[str] = set()

    def set_up(self, case: dict[str, Any]) -> dict[str, Any]:
        from .jobs import Job
        from .work import Case, work_of

        self.jobs = {}
        gc.collect()
        self.jobs = {dtype: Job(model, Case(**case)) for dtype, model in self.models.items()}
        return {"work": {dtype: work_of(job.model, job.case) for dtype, job in self.jobs.items()}}

    def seconds_of_stock(self, dtype: str) -> float:
        """Estimate the seconds of a call of stock MLX, from those of a single token. Its products take each token by itself."""
        from .jobs import Job
        from .work import Case

        if dtype not in self.token_seconds:
            self.token_seconds[dtype] = Job(self.models[dtype], Case("prompt", 1)).turn()
        return self.token_seconds[dtype] * float(self.jobs[dtype].case.tokens_of_call)

    def warm_up(self, side: Any) -> None:
        """Run a few tokens in this type once. MLX compiles its kernels at their first use, which takes seconds."""
        from .jobs import Job
        from .work import Case

        if side.dtype not in self.warm:
            with side.installed():
                Job(self.models[side.dtype], Case("prompt", 3)).prompt()
            self.warm.add(side.dtype)

    def run(self, side: Any, limit: float) -> dict[str, Any]:
        from .sides import OtherPrograms

        self.warm_up(side)
        if side.who == "stock" and (estimate := self.seconds_of_stock(side.dtype)) > limit:
            return {"skipped": f"not waited for: about {estimate:.0f} s"}
        job = self.jobs[side.dtype]
        if job.case.job == "decode":
            job.filled()  # before other programs are watched
        with side.installed():
            others = OtherPrograms()
            seconds = job.turn()
        return {"seconds": seconds, "other_programs": others.share()}


class Answers:
    def __init__(self) -> None:
        self.current: Measured | None = None

    def to(self, request: dict[str, Any]) -> dict[str, Any]:
        check_installed()
        if "installed" in request:
            return {"versions": versions()}
        import mlx.core as mx

        mx.set_default_device(mx.cpu)
        if "model" in request:
            self.current = None  # gives back its memory before the next model needs it
            gc.collect()
            self.current = Measured(request["model"], request["dtypes"])
            return {}
        assert self.current is not None, "a model comes first"
        return self.current.set_up(request["case"]) if "case" in request else self.of_side(request, self.current)

    def of_side(self, request: dict[str, Any], current: Measured) -> dict[str, Any]:
        from .breakdown import breakdown
        from .checks import difference, routing
        from .sides import Side, calls
        from .tiny_calls import tiny_calls

        what = next(iter(request))
        side = Side(**request[what])
        job = current.jobs.get(side.dtype)
        if what == "run":
            return current.run(side, request["limit"])
        if what == "breakdown":
            before = calls()
            figures = breakdown(job, side)
            return {what: figures | {"counts": {who: count - before[who] for who, count in calls().items()}}}
        if what == "difference":
            return {what: difference(current.models[side.dtype], side)}
        if what == "routing":
            return {what: routing(job, side)}
        if what == "tiny_calls":
            return {what: list(tiny_calls(side, request["turns"]))}
        raise ValueError(f"unknown request {what!r}")


def main() -> None:
    answer_requests(Answers().to)
