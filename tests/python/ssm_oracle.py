"""The recurrence of state space models in float64."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Exact(NamedTuple):
    """The results, and sums of the magnitudes of what they are made of."""

    y: np.ndarray
    state: np.ndarray
    of_y: np.ndarray
    of_state: np.ndarray


def exact(x, a_log, b, c, d, dt, dt_bias, state, counts, limit=(0.001, 100.0)) -> Exact:
    """Compute the recurrence over the tokens that count. Their y is 0 elsewhere."""
    x, a_log, b, c, d, dt, dt_bias, state = (np.array(a).astype(np.float64) for a in (x, a_log, b, c, d, dt, dt_bias, state))
    b, c = (np.repeat(a, x.shape[2] // b.shape[2], axis=2) for a in (b, c))
    steps = np.clip(np.logaddexp(dt + dt_bias, 0), *limit)
    decay = np.exp(-np.exp(a_log) * steps)
    y, of_y = np.zeros((2, *x.shape))
    magnitude = np.abs(state)
    for i, t in zip(*np.nonzero(counts), strict=True):
        added = (steps[i, t][:, None] * x[i, t])[..., None] * b[i, t][:, None, :]
        state[i] = state[i] * decay[i, t][:, None, None] + added
        magnitude[i] = magnitude[i] * decay[i, t][:, None, None] + np.abs(added)
        y[i, t] = np.einsum("hdn,hn->hd", state[i], c[i, t]) + d[:, None] * x[i, t]
        of_y[i, t] = np.einsum("hdn,hn->hd", magnitude[i], np.abs(c[i, t])) + np.abs(d[:, None] * x[i, t])
    return Exact(y, state, of_y, magnitude)
