"""Answers the requests of `gqmm bench`."""

from __future__ import annotations

import os
from typing import Any

from worker import answer_requests


def set_up(settings: dict[str, Any]) -> Any:
    """Set up the peers of a case. NumPy may be missing, so what needs it is imported here."""
    os.environ["GQMM_ISA"] = settings["isa"]  # for gqmm itself, which reads it once
    from .case_peers import CasePeers

    return CasePeers(settings)


def set_up_model(settings: dict[str, Any]) -> Any:
    from .llama_model import WholeModel

    return WholeModel(settings["shape"], settings["threads"])


class Answers:
    def __init__(self) -> None:
        self.case: Any = None
        self.model: Any = None

    def to(self, request: dict[str, Any]) -> dict[str, Any]:
        if "case" in request:
            self.case = set_up(request["case"])
            keys = ("name", "version", "computes", "error", "skipped")
            return {"peers": [{key: getattr(peer, key) for key in keys} for peer in self.case.peers]}
        if "model" in request:
            if self.model is not None:
                self.model.close()  # gives back its memory before the next model needs it
                self.model = None  # the next one may fail
            self.model = set_up_model(request["model"])
            return {"version": self.model.version, "formats": self.model.formats}
        if "model_case" in request:
            self.model.set_up(request["model_case"])
            return {}
        return {"seconds": self.model.run() if "model_run" in request else self.case.run(request["run"])}


def main() -> None:
    answer_requests(Answers().to)
