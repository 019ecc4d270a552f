"""Objects of gqmm's classes are copied, pickled and never empty; one interpreter imports the extension, any number of times."""

from __future__ import annotations

import copy
import copyreg
import multiprocessing
import pickle
import subprocess
import sys
import textwrap

import gqmm
import numpy as np
import oracle
import pytest
from gqmm import _gqmm
from oracle import Setting

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
STREAMS = [gqmm.Device(), gqmm.Stream(), gqmm.Stream(threads=3), gqmm.Stream(threads=3, node=1)]
CLASSES = [gqmm.Device, gqmm.Stream, gqmm.QuantizedWeights, gqmm.PackedWeights, gqmm.InstructionSet, _gqmm.Result]


def packed_weights(setting: Setting = Setting("affine", 4, 64), transpose: bool = True) -> gqmm.PackedWeights:  # noqa: B008
    N, K = (19, 128) if transpose else (128, 19)
    weights = oracle.random_weights(np.random.default_rng(5), setting, (2,), N, K, transpose=transpose)
    return gqmm.pack(*weights.arrays(), **setting.arguments(), transpose=transpose)


def same_packed_weights(a: gqmm.PackedWeights, b: gqmm.PackedWeights) -> bool:
    parts = zip(gqmm.unpack(a), gqmm.unpack(b), strict=True)
    return repr(a) == repr(b) and all(x is y is None or oracle.same_bits(x, y) for x, y in parts)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", STREAMS, ids=repr)
def test_devices_and_streams_are_pickled(value, protocol):
    assert pickle.loads(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("transpose", [True, False], ids=["transposed", "plain"])
@pytest.mark.parametrize("setting", oracle.DEFAULTS, ids=str)
def test_packed_weights_are_pickled_with_every_bit(setting, transpose, protocol):
    packed = packed_weights(setting, transpose)
    assert same_packed_weights(pickle.loads(pickle.dumps(packed, protocol)), packed)


def test_packed_weights_that_a_file_maps_are_pickled(tmp_path):
    packed = packed_weights()
    packed.save(tmp_path / "w.gqmm")
    loaded = gqmm.PackedWeights.load(tmp_path / "w.gqmm")
    text = pickle.dumps(loaded)
    (tmp_path / "w.gqmm").unlink()
    assert same_packed_weights(pickle.loads(text), packed)


def test_large_arrays_of_a_pickle_can_go_beside_it():
    buffers: list[pickle.PickleBuffer] = []
    packed = packed_weights()
    text = pickle.dumps(packed, 5, buffer_callback=buffers.append)
    assert len(buffers) == 3
    assert same_packed_weights(pickle.loads(text, buffers=buffers), packed)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_instruction_sets_are_pickled_by_name(protocol):
    for value in gqmm.instruction_sets():
        again = pickle.loads(pickle.dumps(value, protocol))
        assert (again.name, again.description, again.supported) == (value.name, value.description, value.supported)


@pytest.mark.parametrize("make_copy", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("value", [*STREAMS, packed_weights(), gqmm.instruction_sets()[0]], ids=repr)
def test_copies_of_immutable_objects_are_the_objects(value, make_copy):
    assert make_copy(value) is value
    assert make_copy([value, {"a": value}])[1]["a"] is value


def test_results_are_copied_and_pickled_as_arrays():
    y = gqmm.dequantize(*gqmm.unpack(packed_weights())[:3])
    for same in (copy.copy(y), copy.deepcopy(y), pickle.loads(pickle.dumps(y))):
        assert oracle.same_bits(same, y)
        assert not np.shares_memory(same, y)


def product_of(packed: gqmm.PackedWeights, stream: gqmm.Stream) -> np.ndarray:
    return gqmm.gather_qmm(np.ones((2, 1, 128), np.float32), packed, stream=stream)


def test_processes_that_are_spawned_get_packed_weights_and_streams():
    packed, stream = packed_weights(), gqmm.Stream(threads=1)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        y = pool.apply(product_of, (packed, stream))
    assert oracle.same_bits(y, product_of(packed, stream))


WAYS_TO_AN_EMPTY_OBJECT = {
    "its own __new__": lambda c: c.__new__(c),
    "object.__new__": lambda c: object.__new__(c),
    "copyreg.__newobj__": lambda c: copyreg.__newobj__(c),
    "copyreg.__newobj_ex__": lambda c: copyreg.__newobj_ex__(c, (), {}),
    "copyreg._reconstructor": lambda c: copyreg._reconstructor(c, object, None),
    "type.__call__ without arguments": lambda c: type.__call__(c),
    "a subclass": lambda c: type("Subclass", (c,), {}),
    "another class's __new__": lambda c: (gqmm.Device if c is not gqmm.Device else gqmm.Stream).__new__(c),
    "a change of the class's __new__": lambda c: setattr(c, "__new__", object.__new__),
}


@pytest.mark.parametrize("way", WAYS_TO_AN_EMPTY_OBJECT)
@pytest.mark.parametrize("empty_class", CLASSES, ids=lambda c: c.__name__)
def test_no_object_can_be_made_empty(empty_class, way):
    with pytest.raises(TypeError):
        WAYS_TO_AN_EMPTY_OBJECT[way](empty_class)


def test_an_empty_object_is_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"Stream.__new__ would make an object without a value; call the class, or what returns"):
        gqmm.Stream.__new__(gqmm.Stream)


@pytest.mark.parametrize("target", CLASSES, ids=lambda c: c.__name__)
def test_no_object_changes_its_class(target):
    for value in (gqmm.Device(), gqmm.Stream(), packed_weights()):
        if type(value) is not target:
            with pytest.raises(TypeError):
                value.__class__ = target


def test_an_object_is_initialised_once():
    stream = gqmm.Stream(threads=3)
    with pytest.warns(RuntimeWarning, match="already-initialized"), pytest.raises(TypeError):
        stream.__init__(threads=5)
    assert stream.threads == 3


def run(program: str) -> str:
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


MAIN_GOES_ON = """
import gqmm
import numpy as np
w = gqmm.quantize(np.ones((2, 64), np.float32))
assert gqmm.quantized_matmul(np.ones((1, 64), np.float32), *w, stream=gqmm.Stream(threads=1)).tolist() == [[64.0, 64.0]]
assert gqmm.Stream(threads=2) == gqmm.Stream(threads=2)
"""

SUB_INTERPRETER = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
PROGRAM = '''
try:
    import {module}
except ImportError as error:
    print(error)
'''
"""


@pytest.mark.parametrize("first", ["main", "sub"])
@pytest.mark.parametrize("module", ["gqmm", "gqmm._gqmm", "gqmm.mlx"])
def test_a_sub_interpreter_is_told_and_the_main_one_goes_on(module, first):
    import_in_sub = SUB_INTERPRETER + f"interpreters.run_string(interpreters.create(), PROGRAM.format(module={module!r}))\n"
    both = [MAIN_GOES_ON, import_in_sub] if first == "main" else [import_in_sub]
    text = run("\n".join([*both, import_in_sub, MAIN_GOES_ON]))
    assert set(text.splitlines()) == {
        "gqmm works in the main interpreter alone, and this is a sub-interpreter; use threads or processes instead"
    }


def test_an_import_after_the_first_gives_the_same_classes():
    program = """
        import pickle, sys, warnings
        warnings.simplefilter("error")
        import gqmm
        old, stream = gqmm, gqmm.Stream(threads=2)
        for name in [name for name in sys.modules if name.split(".")[0] == "gqmm"]:
            del sys.modules[name]
        import gqmm
        assert gqmm is not old
        assert gqmm.Stream is old.Stream
        assert stream == gqmm.Stream(threads=2)
        assert pickle.loads(pickle.dumps(stream)) == stream
    """
    run(textwrap.dedent(program) + MAIN_GOES_ON)


def test_a_module_may_be_reloaded():
    program = """
        import importlib, warnings
        warnings.simplefilter("error")
        import gqmm
        importlib.reload(gqmm._gqmm)
        importlib.reload(gqmm)
    """
    run(textwrap.dedent(program) + MAIN_GOES_ON)


def test_the_extension_under_another_name_has_the_same_classes():
    program = """
        import importlib.util, warnings
        warnings.simplefilter("error")
        import gqmm
        spec = importlib.util.spec_from_file_location("elsewhere._gqmm", gqmm._gqmm.__file__)
        other = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(other)
        assert other.Stream is gqmm.Stream
        assert other.__name__ == "elsewhere._gqmm"
    """
    run(textwrap.dedent(program) + MAIN_GOES_ON)


def test_another_copy_of_the_extension_is_refused_with_both_names(tmp_path):
    program = f"""
        import importlib.util, os, shutil
        import gqmm
        copy = shutil.copy(gqmm._gqmm.__file__, {str(tmp_path)!r})
        spec = importlib.util.spec_from_file_location("gqmm._gqmm", copy)
        try:
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
        except ImportError as error:
            print(str(error).replace(copy, "COPY").replace(gqmm._gqmm.__file__, "FIRST"))
    """
    assert run(textwrap.dedent(program) + MAIN_GOES_ON) == (
        "gqmm._gqmm has been loaded from FIRST, and one process can hold one copy of it; start Python again to load COPY\n"
    )
