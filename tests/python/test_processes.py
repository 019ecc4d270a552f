"""The library in the user's process: forks, its end, its environment variables, Ctrl-C."""

from __future__ import annotations

import os

import gqmm
import pytest
from processes import PRELUDE, run, run_product

# --- Forks ----------------------------------------------------------------------------------------------------------------

CHILD = """
def child_is_right(threads=0):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        os._exit(0 if right(threads) and right(1) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def test_a_child_forked_after_a_call_computes():
    result = run_product(CHILD + "print(right(2), child_is_right(2), right(2))")
    assert result.stdout == "True True True\n", result.stderr


def test_children_forked_during_the_first_call_compute():
    program = f"""
import os, signal, sys, threading, time
{PRELUDE}
{CHILD}
first = threading.Thread(target=lambda: [right(3) for _ in range(3)])
first.start()
time.sleep(float(sys.argv[1]) if len(sys.argv) > 1 else 0)
ok = all([child_is_right(3) for _ in range(8)])
first.join()
print(ok)
"""
    for _ in range(4):
        result = run(program)
        assert result.stdout == "True\n", result.stderr


def test_children_forked_during_any_later_call_compute():
    program = """
stop = False
def compute():
    while not stop:
        right(2)
threads = [threading.Thread(target=compute) for _ in range(2)]
[t.start() for t in threads]
ok = all([child_is_right(2) for _ in range(20)])
stop = True
[t.join() for t in threads]
print(ok)
"""
    result = run_product(CHILD + program)
    assert result.stdout == "True\n", result.stderr


def test_a_child_forked_from_a_thread_computes():
    program = """
results = []
right(2)
thread = threading.Thread(target=lambda: results.append(child_is_right(2)))
thread.start()
thread.join()
print(results)
"""
    result = run_product(CHILD + program)
    assert result.stdout == "[True]\n", result.stderr


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_of_processes_computes(method, tmp_path):
    script = tmp_path / "pool.py"
    script.write_text(f"""
import multiprocessing
{PRELUDE}
def work(threads):
    return right(threads)
if __name__ == "__main__":
    right(2)
    with multiprocessing.get_context("{method}").Pool(3) as pool:
        print(all(pool.map(work, [1, 2, 3, 0] * 5)), right(2))
""")
    result = run(f"import runpy, sys; sys.argv = ['{script}']; runpy.run_path('{script}', run_name='__main__')")
    assert result.stdout == "True True\n", result.stderr


def test_workers_of_a_data_loader_compute():
    """Processes that live beside their parent and hand over results, as those of torch.utils.data do, over several rounds."""
    program = """
import multiprocessing
context = multiprocessing.get_context("fork")
def serve(requests, results):
    for threads in iter(requests.get, None):
        results.put(right(threads))
answers = []
for round in range(3):
    requests, results = context.Queue(), context.Queue()
    workers = [context.Process(target=serve, args=(requests, results), daemon=True) for _ in range(2)]
    [w.start() for w in workers]
    for i in range(10):
        requests.put(i % 3)
        answers.append(right(2))
    answers += [results.get(timeout=60) for _ in range(10)]
    [requests.put(None) for _ in workers]
    [w.join() for w in workers]
    answers += [w.exitcode == 0 for w in workers]
print(all(answers), len(answers))
"""
    result = run_product(program)
    assert result.stdout == "True 66\n", result.stderr


# --- The end of the process -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_a_daemon_thread_inside_a_call_does_not_disturb_the_end(threads):
    program = f"""
started = threading.Event()
def compute():
    while True:
        product({threads})
        started.set()
for _ in range(2):
    threading.Thread(target=compute, daemon=True).start()
started.wait()
time.sleep(0.01)
"""
    for _ in range(5):
        result = run_product(program)
        assert (result.returncode, result.stderr) == (0, "")


def test_a_daemon_thread_inside_one_long_call_does_not_disturb_the_end():
    program = """
threading.Thread(target=long_call, daemon=True).start()
time.sleep(1)
"""
    result = run_product(program, GQMM_ISA="scalar")
    assert (result.returncode, result.stderr) == (0, "")


# --- Limits of the system -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without processes")
def test_a_call_runs_where_no_thread_can_be_created():
    program = """
import resource
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
os.setuid(65534)
print(right(4), len(os.listdir("/proc/self/task")))
"""
    before = "OPENBLAS_NUM_THREADS"  # NumPy's own threads, which it starts when it is imported
    result = run_product(program, **{before: "1"})
    assert result.stdout == "True 1\n", result.stderr


@pytest.mark.parametrize("text", ["", "auto", "-3", "0", "4,2", " 2 ", "99999999999999999999", "4294967297", "1.5", "x"])
def test_any_omp_num_threads_is_fine(text):
    result = run_product("print(right(), gqmm.available_threads())", OMP_NUM_THREADS=text)
    assert result.stderr == ""
    right, threads = result.stdout.split()
    expected = {"4,2": 4, " 2 ": 2}.get(text, 4096)
    assert right == "True"
    assert int(threads) == min(expected, len(os.sched_getaffinity(0)), gqmm.available_threads())


def test_gqmm_num_threads_takes_precedence():
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two processors")
    assert run("import gqmm; print(gqmm.available_threads())", OMP_NUM_THREADS="2", GQMM_NUM_THREADS="1").stdout == "1\n"
    assert run("import gqmm; print(gqmm.available_threads())", OMP_NUM_THREADS="1", GQMM_NUM_THREADS="2").stdout == "2\n"
    assert run("import gqmm; print(gqmm.available_threads())", OMP_NUM_THREADS="1").stdout == "1\n"


# The last one is a byte that is not UTF-8.
@pytest.mark.parametrize("text", ["0", "-1", "4097", "two", "4,2", "1.5", "2\udcff"], ids=ascii)
def test_a_wrong_gqmm_num_threads_is_an_error_at_the_first_call(text):
    program = """
for call in (lambda: product(1), lambda: product(2), product, gqmm.available_threads, gqmm.get_num_threads):
    try:
        call()
    except ValueError as error:
        print(error)
"""
    result = run_product(program, GQMM_NUM_THREADS=text)
    shown = os.fsencode(text).decode("utf-8", "backslashreplace")
    message = (
        f'[gqmm] GQMM_NUM_THREADS = "{shown}" is not a number of threads; set a whole number from 1 to 4096, or unset it to use '
        "as many as the machine grants\n"
    )
    assert result.stdout == 5 * message, result.stderr


def test_a_changed_affinity_mask_is_followed():
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two processors")
    program = """
mask = os.sched_getaffinity(0)
answers = [gqmm.available_threads() == len(mask), right()]
os.sched_setaffinity(0, {min(mask)})
answers += [gqmm.available_threads() == 1, gqmm.get_num_threads() == 1, right()]
os.sched_setaffinity(0, mask)
answers += [gqmm.available_threads() == len(mask), right()]
print(all(answers), [os.sched_getaffinity(int(t)) == mask for t in os.listdir("/proc/self/task")].count(False))
"""
    result = run_product(program, OMP_NUM_THREADS="64")
    assert result.stdout == "True 0\n", result.stderr


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_raises_keyboard_interrupt_and_leaves_the_team_usable(threads):
    program = f"""
def press():
    time.sleep(1)
    pressed.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)
pressed = []
threading.Thread(target=press, daemon=True).start()
try:
    long_call({threads})
    print("no exception")
except KeyboardInterrupt:
    late = time.monotonic() - pressed[0]
    gqmm.set_num_threads(2)
    busy = time.process_time()
    time.sleep(0.5)
    print("interrupted", late < 30, time.process_time() - busy < 0.4, right(2))
"""
    result = run_product(program, GQMM_ISA="scalar")
    assert result.stdout == "interrupted True True True\n", result.stderr


@pytest.mark.parametrize(
    "call",
    [
        "gqmm.quantize(matrices(64, 4096, np.float32))",
        "gqmm.dequantize(*weights(32), dtype='float32')",
        "gqmm.pack(*weights(256), stream=gqmm.Stream(threads=1))",
    ],
    ids=["quantize", "dequantize", "pack"],
)
def test_ctrl_c_interrupts_other_long_calls(call):
    program = f"""
def matrices(count, columns, dtype):
    # All of them the same memory.
    return np.broadcast_to(np.ones((4096, columns), dtype), (count, 4096, columns))
def weights(count):
    return matrices(count, 512, np.uint32), matrices(count, 64, np.float32), matrices(count, 64, np.float32)
def press():
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=press, daemon=True).start()
try:
    {call}
    print("no exception")
except KeyboardInterrupt:
    print("interrupted", right(2))
"""
    result = run_product(program)
    assert result.stdout == "interrupted True\n", result.stderr


def test_a_signal_handler_runs_during_a_call_and_may_call_operators():
    program = """
answers = []
def handler(number, frame):
    answers.append(right(2))
signal.signal(signal.SIGUSR1, handler)
def send():
    for _ in range(3):
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGUSR1)
w = gqmm.quantize(np.ones((8, 512, 1024), np.float32))
x = np.ones((8, 400, 1024), np.float32)
threading.Thread(target=send, daemon=True).start()
while len(answers) < 3:
    y = gqmm.gather_qmm(x, *w, rhs_indices=np.arange(8), stream=gqmm.Stream(threads=2))
    assert (y == 1024).all()
print(answers)
"""
    result = run_product(program, GQMM_ISA="scalar")
    assert result.stdout == "[True, True, True]\n", result.stderr
