from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rank_processes import without_ranks


@functools.cache
def _one_rank(model: Path) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).with_name("ranks.py")), str(model), "contiguous"]
    return json.loads(subprocess.run(command, env=without_ranks(), capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope="session")
def one_rank() -> Callable[[Path], dict[str, Any]]:
    """What ranks.py prints of a model on one rank."""
    return _one_rank
