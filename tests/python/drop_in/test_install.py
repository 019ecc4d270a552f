"""install, uninstall, status, python -m gqmm.mlx, and what an unfit MLX is told."""

from __future__ import annotations

import contextlib
import importlib.metadata
import inspect
import re
import subprocess
import sys

import numpy as np
import pytest

drop_in = pytest.importorskip("gqmm.mlx")
mx = pytest.importorskip("mlx.core")
nn = pytest.importorskip("mlx.nn")
pytestmark = pytest.mark.mlx

NAMES = ("gather_qmm", "quantized_matmul", "gather_mm")
STOCK = {name: getattr(mx, name) for name in NAMES}


@pytest.fixture(autouse=True)
def _clean():
    drop_in.uninstall()
    yield
    drop_in.uninstall()


def is_stock() -> bool:
    return all(getattr(mx, name) is function for name, function in STOCK.items())


def test_install_and_uninstall():
    assert is_stock()
    drop_in.install()
    assert [getattr(mx, name) for name in NAMES] == [getattr(drop_in, name) for name in NAMES]
    drop_in.install()  # again changes nothing
    drop_in.uninstall()
    assert is_stock()
    drop_in.uninstall()
    assert is_stock()


def test_as_a_context_manager_it_restores_what_was_there():
    with drop_in.install():
        assert drop_in.status().installed
        with contextlib.suppress(ZeroDivisionError), drop_in.install(precision="fast"):
            assert drop_in.status().precision == "fast"
            raise ZeroDivisionError
        assert drop_in.status().installed
        assert drop_in.status().precision == "default"
    assert is_stock()
    assert not drop_in.status().installed


def test_a_wrong_setting_changes_nothing():
    with pytest.raises(ValueError, match="unknown precision"):
        drop_in.install(precision="exact")
    with pytest.raises(ValueError, match=r"pack_limit = -1 is negative; give bytes"):
        drop_in.install(pack=True, pack_limit=-1)
    assert is_stock()


def test_status_counts_calls():
    layer = nn.QuantizedLinear(64, 8)
    x = mx.ones((2, 64))
    before = drop_in.status()
    stock = layer(x)
    assert drop_in.status().calls == before.calls
    with drop_in.install():
        ours = layer(x)
        status = drop_in.status()
    assert status.calls["quantized_matmul"].ours == before.calls["quantized_matmul"].ours + 1
    assert status.functions == NAMES
    assert status.versions == {"gqmm": importlib.metadata.version("gqmm"), "mlx": importlib.metadata.version("mlx")}
    assert mx.allclose(ours, stock, atol=1e-5)
    text = str(status)
    assert f"{', '.join(drop_in.OPERATORS)} replaced" in text
    assert f"quantized_matmul: {status.calls['quantized_matmul'].ours} calls of gqmm's" in text


@pytest.mark.parametrize("name", NAMES)
def test_signatures_are_mlxs_and_precision(name):
    """nanobind's functions carry theirs as text."""
    ours, theirs = (next(iter(f.__nb_signature__))[0] for f in (getattr(drop_in, name), STOCK[name]))
    ours = ours.replace("mlx.core.", "").replace("Stream | Device | None", "StreamOrDevice")
    if mx.__version__ == "0.32.4":
        for more, stock in (
            ("precision: str | None = None, ", ""),
            ("w: array | gqmm.QuantizedWeights", "w: array"),
            ("scales: array | None = None", "scales: array"),
        ):
            ours = ours.replace(more, stock)
        assert ours == theirs
    else:  # a version whose functions have fewer parameters, or the same ones with other annotations
        parameters = [re.findall(r"(\w+):", signature) for signature in (ours, theirs)]
        assert [name for name in parameters[0] if name in parameters[1]] == parameters[1]


def test_streams_and_devices_are_understood():
    w = mx.quantize(mx.ones((8, 64)))
    for stream in (None, mx.cpu, mx.Device(mx.cpu), mx.default_stream(mx.cpu), mx.new_stream(mx.cpu)):
        assert drop_in.quantized_matmul(mx.ones((1, 64)), *w, stream=stream).shape == (1, 8)


PROGRAM = """
import sys
import mlx.core as mx
from helper import NAME
w = mx.quantize(mx.ones((8, 64)))
print(NAME, sys.argv[1:], __name__, mx.quantized_matmul(mx.ones((1, 64)), *w).sum().item())
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "helper.py").write_text("NAME = 'beside it'\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "gqmm.mlx", *arguments], capture_output=True, text=True, timeout=120, **options)


def test_scripts_run_unmodified(program):
    result = run("--status", str(program / "program.py"), "--pack", "-m", "x", cwd="/")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "beside it ['--pack', '-m', 'x'] __main__ 512.0\n"
    assert "quantized_matmul: 1 calls of gqmm's" in result.stderr


def test_modules_run_unmodified(program):
    result = run("--pack", "--status", "-m", "program", "--status", "last", cwd=program)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "beside it ['--status', 'last'] __main__ 512.0\n"
    assert "1 calls of gqmm's" in result.stderr


def test_modules_are_found_where_python_would_look(program):
    (program / "show.py").write_text("import sys; print(sys.path.count(sys.path[0]), sys.path[0])")
    (program / "elsewhere").mkdir()
    script = run(str(program / "show.py"), cwd=program / "elsewhere")
    assert script.stdout == f"1 {program}\n"
    module = run("-m", "show", cwd=program)
    assert module.stdout == f"1 {program}\n"


def test_the_precision_is_passed_on(program):
    (program / "precision.py").write_text("import gqmm.mlx; print(gqmm.mlx.status().precision)")
    assert run("--precision", "fast", "-m", "precision", cwd=program).stdout == "fast\n"


def test_operators_are_selected(program):
    (program / "operators.py").write_text("import gqmm.mlx; print(*gqmm.mlx.status().operators)")
    assert run("-m", "operators", cwd=program).stdout.split() == list(drop_in.OPERATORS)
    assert run("--only", "moe,rope", "-m", "operators", cwd=program).stdout == "moe rope\n"
    without = run("--without", "moe", "-m", "operators", cwd=program).stdout.split()
    assert without == [name for name in drop_in.OPERATORS if name != "moe"]
    for arguments, why in {
        ("--only", "softmx"): "only names 'softmx', which is no operator",
        ("--only", "moe", "--without", "rope"): "are both given",
    }.items():
        result = run(*arguments, "-m", "operators", cwd=program)
        assert result.returncode == 2
        assert why in result.stderr


def test_nothing_is_printed_unless_asked(program):
    assert run(str(program / "program.py")).stderr == ""


def test_a_programs_exit_status_and_errors_are_its_own(program):
    (program / "fails.py").write_text("import sys\nsys.exit(7)\n")
    assert run(str(program / "fails.py")).returncode == 7
    result = run("-m", "no_such_module", cwd=program)
    assert result.returncode == 1
    assert "no_such_module" in result.stderr
    absent = run("no_such_script.py", cwd=program)
    assert absent.returncode == 2
    assert "no_such_script.py: no such file" in absent.stderr
    missing = run()
    assert missing.returncode == 2
    assert "name a module with -m, or a script" in missing.stderr


UNFIT = """
import importlib.metadata
import sys
{change}
try:
    import gqmm.mlx
except ImportError as error:
    print(error)
"""

OTHER_VERSION = """
version = importlib.metadata.version
importlib.metadata.version = lambda name: "0.31.2" if name == "mlx" else version(name)
"""
NO_MLX = """
def version(name):
    raise importlib.metadata.PackageNotFoundError(name)
importlib.metadata.version = version
"""
NO_LIBRARY = """
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("mlx"):
            raise ImportError("libmlx.so: cannot open shared object file")
sys.meta_path.insert(0, Hidden())
"""
OTHER_ABI = """
import mlx.core
mlx.core.array = lambda value: object()
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (OTHER_VERSION, "gqmm.mlx was made for MLX {v}, and MLX 0.31.2 is installed"),
        (NO_MLX, "gqmm.mlx needs MLX {v}, and MLX is not installed"),
        (NO_LIBRARY, "gqmm.mlx needs MLX {v} with its CPU library, and mlx.core fails (libmlx.so: cannot open"),
        (OTHER_ABI, "gqmm.mlx does not understand the arrays of this build of MLX {v}"),
    ],
    ids=["another version", "none", "without its library", "another ABI"],
)
def test_an_unfit_mlx_is_named_with_the_remedy(change, message):
    wanted = importlib.metadata.version("mlx")
    result = subprocess.run(
        [sys.executable, "-c", UNFIT.format(change=change)], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.startswith(message.format(v=wanted))
    assert f'pip install "mlx[cpu]=={wanted}"' in result.stdout
    assert len(result.stdout.splitlines()) == 1


def test_public_names_are_documented():
    for name in drop_in.__all__:
        assert inspect.getdoc(getattr(drop_in, name)), name


def test_a_quantized_linear_layer_trains_through_the_drop_in(rng):
    """mlx.nn looks the functions up when it is called."""
    x = mx.array(rng.standard_normal((4, 64), np.float32))
    layer = nn.QuantizedLinear.from_linear(nn.Linear(64, 8), 32, 4)

    def gradients():
        return mx.grad(lambda x: (layer(x) ** 2).sum())(x)

    stock = gradients()
    with drop_in.install():
        assert mx.allclose(gradients(), stock, rtol=1e-4, atol=1e-5)


def test_an_import_while_installed_still_knows_mlxs_own_functions():
    program = """
import sys
import mlx.core as mx
stock = mx.gather_qmm
import gqmm.mlx
gqmm.mlx.install()
for name in [name for name in sys.modules if name.split(".")[0] == "gqmm"]:
    del sys.modules[name]
import gqmm.mlx
assert gqmm.mlx.status().installed
gqmm.mlx.uninstall()
assert mx.gather_qmm is stock
assert not gqmm.mlx.status().installed
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=120)
