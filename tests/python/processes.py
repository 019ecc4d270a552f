"""Programs that tests run in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

# What the programs below begin with: product() is worth several threads, and right() says whether it is what it should be.
PRELUDE = """
import os, signal, sys, threading, time
import numpy as np
import gqmm

# A shell that starts tests in the background makes its processes ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

_w = gqmm.quantize(np.ones((4, 256, 256), np.float32))
_x = np.ones((64, 1, 256), np.float32)
_rhs = np.arange(64) % 4

def product(threads=0):
    return gqmm.gather_qmm(_x, *_w, rhs_indices=_rhs, stream=gqmm.Stream(threads=threads))

def right(threads=0):
    return bool((product(threads) == 256).all())

def long_call(threads=0):
    # Minutes on the scalar kernels.
    w = gqmm.quantize(np.ones((8, 2048, 2048), np.float32))
    x = np.ones((8, 4096, 2048), np.float32)
    return gqmm.gather_qmm(x, *w, rhs_indices=np.arange(8), stream=gqmm.Stream(threads=threads))
"""


def run(program: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a program; a hang ends the test."""
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def run_product(program: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a program after PRELUDE."""
    return run(PRELUDE + program, timeout, **environment)
