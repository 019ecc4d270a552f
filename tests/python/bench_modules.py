"""Loads the benchmark's Python files, which no installed package has."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def script(name: str) -> Path:
    """A Python file of the benchmark, whichever folder it lies in."""
    (path,) = (ROOT / "bench").rglob(f"{name}.py")
    return path


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, script(name))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def load_package(name: str, folder: Path) -> None:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])


def load_from(name: str, folder: str, module: str) -> ModuleType:
    """A module of a package that `gqmm bench` carries. The package `worker` is beside each."""
    load_package("worker", ROOT / "bench" / "worker")
    load_package(name, ROOT / "bench" / folder)
    return importlib.import_module(f"{name}.{module}")


def load_peers(module: str) -> ModuleType:
    """A module of the package bench/peers."""
    return load_from("peers", "peers", module)


def load_mlx_lm(module: str) -> ModuleType:
    """A module of the package bench/mlx_lm."""
    return load_from("through_mlx_lm", "mlx_lm", module)


def load_scale(module: str) -> ModuleType:
    """A module of the package bench/scale."""
    return load_from("scale", "scale", module)
