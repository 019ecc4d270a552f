"""The benchmark's Python side."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "bench" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestLearnedRouting:
    def test_the_table_holds_the_choices_of_the_models_routers(self) -> None:
        pytest.importorskip("tokenizers")
        learned = load("learned_routing")
        folder = ROOT / "models" / "shakespeare-moe-affine4"
        counts = learned.count(folder, learned.TOKENS)
        lines = (ROOT / "bench" / "learned_routing.txt").read_text().splitlines()
        stored = np.array([line.split() for line in lines if not line.startswith("#")], np.int64)
        # NumPy's part of the model is rounded differently with other libraries, where two experts are as good as equal.
        assert np.abs(counts - stored).sum() <= 1e-3 * counts.sum()
        assert learned.table(counts, folder.name, learned.TOKENS).splitlines()[:2] == lines[:2]
