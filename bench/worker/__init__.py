"""What the benchmark's Python processes share: how they answer requests, and how they say that a package is missing.

`gqmm bench` carries this package beside the one that it starts (bench/start.py).
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any


class NotInstalledError(Exception):
    """An error for a package that is not installed. The message says how to install it."""


def is_missing(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:  # the package of the module is missing
        return True


def text_of(error: Exception) -> str:
    """Return the kind and the first line of an error. NumPy explains on many lines why it cannot be imported."""
    return str(error) if isinstance(error, NotInstalledError) else f"{type(error).__name__}: {error}".splitlines()[0]


def answer_requests(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Read one JSON object per line from standard input, and write the answer for each to standard output, until input ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Answers get a copy of standard output. What libraries print goes to standard error, so it cannot mix with the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            result = answer(json.loads(line))
        except Exception as error:
            result = {"error": text_of(error)}
        print(json.dumps(result), file=answers, flush=True)
