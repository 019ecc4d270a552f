from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@functools.cache
def _one_rank(model: Path) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLX_")}
    command = [sys.executable, str(Path(__file__).with_name("ranks.py")), str(model), "contiguous"]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope="session")
def one_rank() -> Callable[[Path], dict[str, Any]]:
    """What ranks.py prints of a model on one rank."""
    return _one_rank
