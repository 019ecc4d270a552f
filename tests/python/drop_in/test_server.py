"""mlx-lm's server answers many clients at once, and each gets the answer that its request gets alone, byte for byte."""

from __future__ import annotations

import pytest

pytest.importorskip("mlx_lm")
pytest.importorskip("gqmm.mlx")
pytest.importorskip("openai")

from server_load import GROWTH, MODEL, run

pytestmark = pytest.mark.mlx


def test_answers_under_load_are_those_alone_and_the_server_does_not_grow():
    """The short form of what `./dev soak` runs for minutes."""
    result, growth = run(MODEL, warm_up_seconds=8, seconds=8)
    assert growth <= GROWTH, f"{growth} bytes after {result.answers} answers"
