"""Answers the requests of `gqmm bench`."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any


def set_up(settings: dict[str, Any]) -> Any:
    """Set up the peers of a case. NumPy may be missing, so what needs it is imported here."""
    os.environ["GQMM_ISA"] = settings["isa"]  # for gqmm itself, which reads it once
    from .case_peers import CasePeers

    return CasePeers(settings)


def set_up_model(settings: dict[str, Any]) -> Any:
    from .llama_model import WholeModel

    return WholeModel(settings["shape"], settings["threads"])


def text_of(error: Exception) -> str:
    """Return the kind and the first line of an error. NumPy explains on many lines why it cannot be imported."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Answers get a copy of standard output. What libraries print goes to standard error, so it cannot mix with the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    current: Any = None
    model: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer: dict[str, Any] = {}
            if "case" in request:
                current = set_up(request["case"])
                keys = ("name", "version", "computes", "error", "skipped")
                answer = {"peers": [{key: getattr(peer, key) for key in keys} for peer in current.peers]}
            elif "model" in request:
                if model is not None:
                    model.close()  # gives back its memory before the next model needs it
                    model = None  # the next one may fail
                model = set_up_model(request["model"])
                answer = {"version": model.version, "formats": model.formats}
            elif "model_case" in request:
                model.set_up(request["model_case"])
            elif "model_run" in request:
                answer = {"seconds": model.run()}
            else:
                answer = {"seconds": current.run(request["run"])}
        except Exception as error:
            answer = {"error": text_of(error)}
        print(json.dumps(answer), file=answers, flush=True)
