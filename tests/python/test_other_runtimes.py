"""Other libraries' threads in the user's process: OpenMP runtimes, their regions and their binding, and many callers at once."""

from __future__ import annotations

import ctypes.util
import glob
import os
import sys

import pytest
from processes import PRELUDE, run, run_product


def test_importing_gqmm_loads_no_openmp_runtime():
    program = """
import gqmm
maps = open("/proc/self/maps").read()
print([name for name in ("libgomp", "libomp", "libiomp5") if name in maps])
"""
    assert run(program).stdout == "[]\n"


def runtimes() -> dict[str, str]:
    """Paths of the OpenMP runtimes of this machine: GCC's, LLVM's and Intel's (of the package intel-openmp)."""
    found = {}
    if gomp := ctypes.util.find_library("gomp"):
        found["libgomp"] = gomp
    for name, pattern in (("libomp", "/usr/lib/llvm-*/lib/libomp.so.5"), ("libiomp5", f"{sys.prefix}/lib/libiomp5.so")):
        if paths := sorted(glob.glob(pattern)):
            found[name] = paths[-1]
    return found


# Calls a parallel region of a runtime by the entry that GCC's or Clang's code uses.
REGION = """
import ctypes
def in_region(runtime, function, threads=2):
    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: function())
    runtime.GOMP_parallel(callback, None, ctypes.c_uint(threads), ctypes.c_uint(0))
"""


@pytest.mark.parametrize("name", ["libgomp", "libomp", "libiomp5"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_a_runtime_in_the_process_changes_nothing(name, order):
    if name not in runtimes():
        pytest.skip(f"{name} is not here")
    load = f"import ctypes; runtime = ctypes.CDLL({runtimes()[name]!r}, mode=ctypes.RTLD_GLOBAL)\n"
    use = "runtime.omp_get_max_threads(); runtime.omp_set_num_threads(2)\nprint(right(2), right())"
    result = run(load + PRELUDE + use if order == "before" else PRELUDE + "right(2)\n" + load + use)
    assert (result.stdout, result.returncode) == ("True True\n", 0), result.stderr


def test_three_runtimes_in_one_process_are_no_matter():
    loads = "".join(f"ctypes.CDLL({path!r})\n" for path in runtimes().values())
    result = run(f"import ctypes\n{loads}{PRELUDE}\nprint(right(2))")
    assert (result.stdout, result.returncode) == ("True\n", 0), result.stderr


def without_leave(program: str) -> str:
    """A program in which a second OpenMP runtime of LLVM's family that is set up ends the process."""
    return "import os; os.environ['KMP_DUPLICATE_LIB_OK'] = 'FALSE'\n" + program


@pytest.mark.parametrize(("used", "unused"), [("libomp", "libiomp5"), ("libiomp5", "libomp")])
def test_a_runtime_that_nobody_has_used_is_not_set_up_by_gqmm(used, unused):
    if not {used, unused} <= runtimes().keys():
        pytest.skip(f"needs {used} and {unused}")
    program = f"""
runtime = ctypes.CDLL({runtimes()[used]!r})
in_region(runtime, lambda: None)
ctypes.CDLL({runtimes()[unused]!r})
print(right(2), right())
in_region(runtime, lambda: right(2))
"""
    result = run(without_leave(REGION + PRELUDE + program))
    assert (result.stdout, result.returncode) == ("True True\n", 0), result.stderr


def test_a_runtime_is_known_by_what_it_has_not_by_its_name(tmp_path):
    """Some distributions have LLVM's runtime under libgomp's name."""
    if not {"libomp", "libiomp5"} <= runtimes().keys():
        pytest.skip("needs libomp and libiomp5")
    (tmp_path / "libgomp.so.1").symlink_to(runtimes()["libomp"])
    program = f"""
runtime = ctypes.CDLL({runtimes()["libiomp5"]!r})
in_region(runtime, lambda: None)
ctypes.CDLL({str(tmp_path / "libgomp.so.1")!r})
print(right(2))
"""
    result = run(without_leave(REGION + PRELUDE + program))
    assert (result.stdout, result.returncode) == ("True\n", 0), result.stderr


def test_importing_gqmm_leaves_the_environment_alone():
    program = "import os; before = dict(os.environ); import gqmm; print(dict(os.environ) == before)"
    assert run(program).stdout == "True\n"


@pytest.mark.parametrize("name", ["libgomp", "libomp", "libiomp5"])
def test_a_call_inside_a_parallel_region_starts_no_threads(name):
    if name not in runtimes():
        pytest.skip(f"{name} is not here")
    program = f"""
runtime = ctypes.CDLL({runtimes()[name]!r})
counts, answers = [], []
def call():
    before = len(os.listdir("/proc/self/task"))
    answers.append(right(5))
    counts.append(len(os.listdir("/proc/self/task")) - before)
in_region(runtime, call)
print(answers, max(counts))
"""
    result = run(REGION + PRELUDE + program, KMP_WARNINGS="0")
    assert result.stdout == "[True, True] 0\n", result.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {"OMP_PROC_BIND": "close"},
        {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"},
        {"GOMP_CPU_AFFINITY": "0-1"},
        {"OMP_PLACES": "threads"},
        {"KMP_AFFINITY": "granularity=fine,compact,1,0", "OMP_PROC_BIND": "spread"},
    ],
    ids=str,
)
def test_a_process_that_libgomp_has_bound_still_uses_its_processors(environment):
    if "libgomp" not in runtimes() or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs libgomp and two processors")
    program = f"""
import ctypes
ctypes.CDLL({runtimes()["libgomp"]!r})
{PRELUDE}
print(gqmm.available_threads(), right())
"""
    expected = len(os.sched_getaffinity(0))
    result = run(program, **environment)
    assert result.stdout == f"{expected} True\n", result.stderr
    if "GOMP_CPU_AFFINITY" in environment:
        return  # names the processors, and libgomp binds to them whatever the mask was
    # Otherwise a mask from before the binding counts.
    narrow = f"""
import os, sys
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
os.execv(sys.executable, [sys.executable, "-c", {program!r}])
"""
    result = run(narrow, **environment)
    assert result.stdout == "1 True\n", result.stderr


BINDING = [
    {"KMP_AFFINITY": "granularity=fine,compact", "OMP_PROC_BIND": "close"},
    {"KMP_AFFINITY": "granularity=fine,compact,1,0"},
    {"OMP_PROC_BIND": "true"},
    {"OMP_PLACES": "threads", "OMP_PROC_BIND": "master"},
]


# A region of two threads, one of the first thread alone, and a question that sets the runtime up.
@pytest.mark.parametrize("use", ["in_region(runtime, int)", "in_region(runtime, int, 1)", "runtime.omp_get_max_threads()"])
@pytest.mark.parametrize("environment", BINDING, ids=str)
@pytest.mark.parametrize("name", ["libomp", "libiomp5"])
def test_a_process_that_llvms_runtimes_have_bound_still_uses_its_processors(name, environment, use):
    if name not in runtimes() or len(os.sched_getaffinity(0)) < 2:
        pytest.skip(f"needs {name} and two processors")
    program = f"""
runtime = ctypes.CDLL({runtimes()[name]!r})
{use}
"""
    ask = "print(gqmm.available_threads(), right())\n"
    expected = f"{len(os.sched_getaffinity(0))} True\n"
    result = run(REGION + program + PRELUDE + ask, KMP_WARNINGS="0", **environment)
    assert result.stdout == expected, result.stderr
    result = run(PRELUDE + ask + REGION + program + ask, KMP_WARNINGS="0", **environment)
    assert result.stdout == 2 * expected, result.stderr


def test_a_runtime_that_is_loaded_between_two_calls_and_binds_is_seen_at_once():
    if "libgomp" not in runtimes() or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs libgomp and two processors")
    program = f"""
import ctypes
before = gqmm.available_threads()
ctypes.CDLL({runtimes()["libgomp"]!r})
print(len(os.sched_getaffinity(0)), gqmm.available_threads() == before, right(2))
"""
    result = run_product(program, OMP_PROC_BIND="close", OMP_PLACES="threads")
    assert result.stdout == "1 True True\n", result.stderr


def test_a_mask_that_is_no_place_of_a_runtime_is_the_programs_own():
    """The program has narrowed its mask to one processor, and the places of its runtime are others."""
    if "libomp" not in runtimes() or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs libomp and two processors")
    first, second = sorted(os.sched_getaffinity(0))[:2]
    program = f"""
runtime = ctypes.CDLL({runtimes()["libomp"]!r})
in_region(runtime, int, 1)
bound = gqmm.available_threads()
os.sched_setaffinity(0, {{{second}}})
print(bound, gqmm.available_threads(), right())
"""
    result = run(REGION + PRELUDE + program, OMP_PLACES=f"{{{first}}}", OMP_PROC_BIND="true", KMP_WARNINGS="0")
    assert result.stdout == "1 1 True\n", result.stderr


def test_a_child_of_a_bound_process_uses_its_processors():
    if "libomp" not in runtimes() or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs libomp and two processors")
    program = f"""
runtime = ctypes.CDLL({runtimes()["libomp"]!r})
in_region(runtime, int, 1)
before = gqmm.available_threads()
child = os.fork()
if child == 0:
    os._exit(0 if gqmm.available_threads() == before and right() else 1)
print(before, os.waitpid(child, 0)[1])
"""
    result = run(REGION + PRELUDE + program, OMP_PROC_BIND="close", KMP_WARNINGS="0")
    assert result.stdout == f"{len(os.sched_getaffinity(0))} 0\n", result.stderr


@pytest.mark.torch
def test_torch_first_and_bound_leaves_gqmm_its_processors():
    pytest.importorskip("torch")
    program = "print(gqmm.available_threads() == os.cpu_count() or gqmm.available_threads(), right())"
    result = run("import torch\n" + PRELUDE + program, OMP_PROC_BIND="close")
    assert result.stdout == "True True\n", result.stderr


def test_many_threads_at_once_start_no_more_than_one_team():
    program = """
right(2)
most = []
def compute():
    for _ in range(50):
        assert right(2)
        most.append(len(os.listdir("/proc/self/task")))
before = len(os.listdir("/proc/self/task"))
threads = [threading.Thread(target=compute) for _ in range(6)]
[t.start() for t in threads]
[t.join() for t in threads]
print(max(most) - before <= 6)
"""
    result = run_product(program)
    assert result.stdout == "True\n", result.stderr
