"""shard_experts: a rank that ends or stalls ends the others in time, with a sentence that names it."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from lost_rank import TIMEOUT, WAYS
from mlx_lm_support import OURS
from rank_processes import run_ring

pytestmark = pytest.mark.mlx

PROGRAM = str(Path(__file__).with_name("lost_rank.py"))
SENTENCES = {
    "stops": "rank 1 does not answer",
    "dies": "rank 1 has ended",
    "sleeps": "rank 1 has not come to the exchange",
}
SECONDS_OF_ALL_ELSE = 60  # imports, loading, and the time until the ranks that are left are ended


@pytest.mark.parametrize("how", WAYS)
def test_a_lost_rank_is_named_on_the_others(how, tmp_path):
    start = time.monotonic()
    first, _, third = run_ring(tmp_path, [[PROGRAM, str(OURS), how]] * 3, after_a_failure=2 * TIMEOUT)
    assert time.monotonic() - start < TIMEOUT + SECONDS_OF_ALL_ELSE
    for rank, result in ((0, first), (2, third)):
        assert result.status != 0
        assert "the exchange has ended" not in result.output
        # MLX's ring writes to the same stream at the same time, and not whole lines.
        sentences = re.findall(rf"\[shard_experts\] rank {rank} .*", result.errors)
        assert len(sentences) == 1, result.errors[-3000:]
        assert SENTENCES[how] in sentences[0]
