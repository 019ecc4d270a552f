"""Tiny configurations of the models of mlx-lm: at least one for each of its model files, or the reason why there is none."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from .dense import DENSE
from .experts import EXPERTS, SUM_STAYS
from .family import AFFINE4, LAYERS, VOCABULARY, Family
from .recurrent import RECURRENT

__all__ = ["AFFINE4", "FAMILIES", "LAYERS", "LEFT_OUT", "RECURRENT", "SUM_STAYS", "VOCABULARY", "Family", "model_files"]

FAMILIES = {**EXPERTS, **DENSE, **RECURRENT}

# Model files without a family, and why.
LEFT_OUT = {
    "bitnet": "its linear layers are a Metal kernel, which MLX does not have on the CPU",
    "olmo": 'mlx-lm fails on its prompts, because it adds the mask, which is the word "causal", to scores',
    "muse_spark": "its attention is a Metal kernel, which MLX does not have on the CPU",
}


def model_files() -> set[str]:
    """The names of the installed mlx-lm's files that have a model, without those of parts that models share."""
    folder = Path(importlib.util.find_spec("mlx_lm").origin).parent / "models"
    return {path.stem for path in folder.glob("*.py") if re.search(r"^class ModelArgs\b", path.read_text(), re.MULTILINE)}
