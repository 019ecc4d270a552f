from __future__ import annotations

import os

# Before NumPy is loaded: where cores are few, threads of its own matmul only get in the way of the library's.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240229)
