"""gqmm.mlx.pack_model: packed parameters in the place of a model's arrays, with the same bits."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle

import numpy as np
import oracle
import pytest

drop_in = pytest.importorskip("gqmm.mlx")
mlx_oracle = pytest.importorskip("mlx_oracle")
mx = pytest.importorskip("mlx.core")
nn = pytest.importorskip("mlx.nn")
utils = pytest.importorskip("mlx.utils")
pytestmark = pytest.mark.mlx

K = 128
MODES = {setting.mode: (setting.group_size, setting.bits) for setting in mlx_oracle.of_mlx(oracle.DEFAULTS)}


class Model(nn.Module):
    def __init__(self, mode="affine"):
        super().__init__()
        group_size, bits = MODES[mode]
        self.embed = nn.QuantizedEmbedding(32, K, group_size, bits, mode=mode)
        self.layers = [nn.QuantizedLinear(K, K, bias=i == 0, group_size=group_size, bits=bits, mode=mode) for i in range(3)]
        self.norm = nn.RMSNorm(K)

    def __call__(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = self.norm(nn.relu(layer(x)) + x)
        return self.embed.as_linear(x)


TOKENS = mx.array([[1, 2, 3, 31]])
LAYERS = ("layers.0", "layers.1", "layers.2")


before_test = {"packed_modules": 0}


@pytest.fixture(autouse=True)
def installed():
    drop_in.uninstall()
    gc.collect()
    before_test["packed_modules"] = drop_in.status().packed_modules  # compiled functions, say, keep those of earlier tests
    with drop_in.install():
        yield


def packed_modules() -> int:
    """How many sets of parameters this test has packed and holds."""
    gc.collect()
    return drop_in.status().packed_modules - before_test["packed_modules"]


def evaluated(model):
    mx.eval(model.parameters())
    return model


def bits_of(model, tokens=TOKENS):
    return np.array(model(tokens).astype(mx.float32)).tobytes()


def parameters_of(model):
    return {
        name: np.array(a.astype(mx.float32) if a.dtype == mx.bfloat16 else a)
        for name, a in utils.tree_flatten(model.parameters())
    }


def assert_same_parameters(a, b):
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
def test_a_packed_model_gives_the_same_bits(mode, dtype):
    model = Model(mode)
    if mode == "affine":
        model.set_dtype(dtype)
    before, names = bits_of(evaluated(model)), parameters_of(model)
    calls = drop_in.status().calls["quantized_matmul"]
    report = drop_in.pack_model(model)
    assert report.packed == LAYERS
    assert report.left == {"embed": "its rows are looked up one by one"}
    assert report.still_held == ()
    for _ in range(2):
        assert bits_of(model) == before
    assert drop_in.status().calls["quantized_matmul"].ours == calls.ours + 8
    assert packed_modules() == 3
    assert_same_parameters(parameters_of(model), names)
    assert all(isinstance(layer, nn.QuantizedLinear) for layer in model.layers)


def test_the_arrays_are_let_go_of():
    model = evaluated(nn.Sequential(*(nn.QuantizedLinear(1024, 1024, bias=False) for _ in range(4))))
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    size = sum(a.nbytes for _, a in utils.tree_flatten(model.parameters()))
    report = drop_in.pack_model(model)
    assert report.original_bytes == size
    assert size <= report.packed_bytes <= 1.03 * size
    assert drop_in.status().packed_modules_bytes >= report.packed_bytes
    assert before - mx.get_active_memory() >= size
    x = mx.ones((1, 1024))
    mx.eval(model(x))
    mx.eval(model)
    mx.eval(model.parameters(), model.state)
    mx.eval(model(x))
    gc.collect()
    mx.clear_cache()
    assert before - mx.get_active_memory() >= size - 100_000


def test_a_second_call_changes_nothing():
    model = evaluated(Model())
    first = drop_in.pack_model(model)
    kept = [dict.__getitem__(layer, "weight").parameters for layer in model.layers]
    assert drop_in.pack_model(model) == first
    assert [dict.__getitem__(layer, "weight").parameters for layer in model.layers] == kept


def test_packed_parameters_are_freed_with_their_model():
    model = evaluated(Model())
    drop_in.pack_model(model)
    mx.eval(model(TOKENS))
    y = model(TOKENS)  # a graph that still needs them
    del model
    assert packed_modules() == 3
    mx.eval(y)
    assert packed_modules() == 0


def test_the_report_is_readable():
    model = evaluated(Model())
    text = str(drop_in.pack_model(model))
    assert text.startswith("3 modules packed, 0.0 MB in the place of 0.0 MB\n")
    assert "left as it is: embed, because its rows are looked up one by one" in text
    assert "3 sets of parameters packed by pack_model" in str(drop_in.status())


def test_modules_that_share_arrays_share_the_packed_ones():
    model = evaluated(Model())
    model.layers[2].weight, model.layers[2].scales, model.layers[2].biases = (
        model.layers[1][name] for name in ("weight", "scales", "biases")
    )
    model.again = model.layers[0]  # the same module under another name
    before = bits_of(model)
    report = drop_in.pack_model(model)
    assert set(report.packed) in ({"again", "layers.1", "layers.2"}, {*LAYERS})
    assert packed_modules() == 2
    assert report.original_bytes == 2 * sum(model.layers[1][name].nbytes for name in ("weight", "scales", "biases"))
    assert bits_of(model) == before


def test_weights_that_are_shared_without_their_scales_are_packed_apart():
    model = evaluated(Model())
    model.layers[2].weight = model.layers[1].weight
    before = bits_of(model)
    drop_in.pack_model(model)
    assert packed_modules() == 3
    assert bits_of(model) == before


def test_arrays_that_something_else_holds_are_reported():
    model = evaluated(Model())
    held = model.layers[1].weight
    report = drop_in.pack_model(model)
    assert report.still_held == ("layers.1",)
    assert "still held by something else: layers.1" in str(report)
    assert held.shape == (K, K // 8)


def test_a_numpy_view_of_the_old_arrays_does_not_reach_the_packed_ones():
    model = evaluated(Model())
    before = bits_of(model)
    view = np.array(model.layers[1].weight, copy=False)
    drop_in.pack_model(model)
    view[...] = 0
    assert bits_of(model) == before


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_saved_weights_are_the_originals(tmp_path, suffix):
    model = evaluated(Model())
    before, names = bits_of(model), parameters_of(model)
    drop_in.pack_model(model)
    model.save_weights(str(tmp_path / f"w{suffix}"))
    assert packed_modules() == 3
    other = Model()
    other.load_weights(str(tmp_path / f"w{suffix}"))
    assert_same_parameters(parameters_of(other), names)
    assert bits_of(other) == before
    drop_in.pack_model(other)
    other.load_weights(str(tmp_path / f"w{suffix}"))  # into a packed model: ordinary from then on
    assert bits_of(other) == before
    del model
    gc.collect()
    assert packed_modules() == 0
    assert drop_in.pack_model(other).packed == LAYERS
    assert bits_of(other) == before


def test_assigning_to_a_parameter_turns_a_module_back():
    model = evaluated(Model())
    reference = copy.deepcopy(model)
    drop_in.pack_model(model)
    for each in (model, reference):
        each.layers[0].scales = each.layers[0].scales * 2
        each.layers[1]["biases"] = each.layers[1]["biases"] + 1
        each.layers[2].update({"weight": each.layers[2].weight ^ 3})
    assert type(model.layers[0]) is nn.QuantizedLinear
    assert bits_of(model) == bits_of(reference)
    assert drop_in.pack_model(model).packed == LAYERS
    assert bits_of(model) == bits_of(reference)


def test_an_update_with_a_models_own_parameters_keeps_it_packed():
    model = evaluated(Model())
    before = bits_of(model)
    drop_in.pack_model(model)
    model.update(model.parameters())
    model.apply(lambda a: a)
    model.freeze()
    model.unfreeze()
    model.train()
    model.eval()
    assert packed_modules() == 3
    assert bits_of(model) == before
    model.set_dtype(mx.float16)
    assert model.layers[0].scales.dtype == mx.float16


def test_an_update_in_place_changes_the_array_that_was_read_alone():
    layer = evaluated(nn.QuantizedLinear(K, K))
    x = mx.random.normal((2, K))
    before = np.array(layer(x))
    drop_in.pack_model(layer)
    read = layer.weight
    read[0] = 0
    assert not np.array_equal(np.array(read), np.array(layer.weight))
    assert np.array_equal(np.array(layer(x)), before)
    layer.weight = read  # a whole array reaches the module
    assert not np.array_equal(np.array(layer(x)), before)


def test_deleting_a_parameter_turns_a_module_back():
    model = evaluated(Model())
    drop_in.pack_model(model)
    del model.layers[0].biases
    model.layers[1].pop("weight")
    model.layers[2].biases = None
    assert all(type(layer) is nn.QuantizedLinear for layer in model.layers)
    assert "biases" not in model.layers[0]
    assert "weight" not in model.layers[1]
    assert "biases" not in model.layers[2]
    assert model.layers[0].weight.shape == (K, K // 8)
    assert mx.array_equal(model.layers[0].weight, model.layers[0]["weight"])


def test_a_module_reads_like_its_dictionary():
    layer = evaluated(nn.QuantizedLinear(K, K))
    plain = {name: np.array(a) for name, a in layer.items()}
    shown = repr(layer)
    drop_in.pack_model(layer)
    for read in (
        dict(layer),
        {**layer},
        layer.copy(),
        dict(layer.items()),
        dict(zip(layer, layer.values(), strict=True)),
        layer.state,
    ):
        assert list(read) == list(plain)
        assert all(np.array_equal(read[name], plain[name]) for name in plain)
    assert len(layer) == len(plain)
    assert "scales" in layer
    assert layer.get("nothing", 3) == 3
    assert repr(layer) == shown


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_copies_are_packed_and_independent(make):
    model = evaluated(nn.QuantizedLinear(K, K))
    x = mx.ones((1, K))
    before = np.array(model(x))
    drop_in.pack_model(model)
    other = make(model)
    assert packed_modules() == 1
    assert np.array_equal(np.array(other(x)), before)
    other.scales = other.scales * 2
    assert np.array_equal(np.array(model(x)), before)
    assert not np.array_equal(np.array(other(x)), before)


def test_a_pickle_has_the_ordinary_module():
    model = evaluated(nn.QuantizedLinear(K, K))
    try:
        pickle.loads(pickle.dumps(model))
    except Exception as error:
        pytest.skip(f"MLX does not pickle its modules: {error}")
    x = mx.ones((1, K))
    before = np.array(model(x))
    drop_in.pack_model(model)
    other = pickle.loads(pickle.dumps(model))
    assert type(other) is nn.QuantizedLinear
    assert np.array_equal(np.array(other(x)), before)


def test_gradients_and_transforms_are_those_of_the_arrays():
    layer = evaluated(nn.QuantizedLinear(K, K))
    x, v = mx.random.normal((2, 3, K)), mx.random.normal((2, 3, K))

    def results():
        def loss(x):
            return (layer(x) ** 2).sum()

        yield mx.grad(loss)(x)
        yield mx.jvp(layer, [x], [v])[1][0]
        yield mx.vmap(layer)(x)
        yield mx.compile(layer)(x)
        yield mx.checkpoint(layer)(x)

    before = [np.array(y) for y in results()]
    drop_in.pack_model(layer)
    after = [np.array(y) for y in results()]
    assert all(np.array_equal(a, b) for a, b in zip(after, before, strict=True))
    assert all(type(each) is not nn.QuantizedLinear for each in [layer])


def test_compiled_functions_that_take_the_models_state():
    model = evaluated(Model())
    before = bits_of(model)
    drop_in.pack_model(model)
    compiled = mx.compile(model.__call__, inputs=model.state)
    for _ in range(3):
        assert bits_of(compiled) == before
    assert all(type(each) is not nn.QuantizedLinear for each in [*model.layers])


def test_a_lora_layer_trains_over_a_packed_one():
    lora = pytest.importorskip("mlx_lm.tuner.lora")
    base = evaluated(nn.QuantizedLinear(K, K))
    x = mx.random.normal((2, K))

    def gradients(linear):
        mx.random.seed(1)
        layer = lora.LoRALinear.from_base(linear)
        value, grads = nn.value_and_grad(layer, lambda x: (layer(x) ** 2).sum())(x)
        return (
            np.array(value),
            {name: np.array(a) for name, a in utils.tree_flatten(grads)},
            np.array(layer.fuse(dequantize=True).weight),
        )

    value, grads, fused = gradients(base)
    drop_in.pack_model(base)
    packed_value, packed_grads, packed_fused = gradients(base)
    assert packed_value == value
    assert_same_parameters(packed_grads, grads)
    assert np.array_equal(packed_fused, fused)
    assert all(type(each) is not nn.QuantizedLinear for each in [base])


@pytest.mark.parametrize(("mode", "global_scale"), [*((mode, False) for mode in MODES), ("nvfp4", True)])
def test_experts_of_mlx_lm(mode, global_scale):
    switch = pytest.importorskip("mlx_lm.models.switch_layers")
    group_size, bits = MODES[mode]
    if global_scale and len(inspect.signature(switch.QuantizedSwitchLinear).parameters) < 8:
        pytest.skip("the experts of mlx-lm before 0.32.2 have no global scales")
    settings = (group_size, bits, mode, *([True] if global_scale else []))
    layer = evaluated(switch.QuantizedSwitchLinear(K, 64, 4, True, *settings))
    x, indices = mx.random.normal((3, 1, 1, K)), mx.array([[0, 1], [3, 2], [2, 2]])
    before, names = np.array(layer(x, indices)), parameters_of(layer)
    report = drop_in.pack_model(layer)
    assert report.packed == ("",)
    assert np.array_equal(np.array(layer(x, indices)), before)
    assert_same_parameters(parameters_of(layer), names)
    assert (layer.num_experts, layer.input_dims, layer.output_dims) == (4, K, 64)
    with pytest.raises(RuntimeError, match=r"rhs_indices\[0, 0\] = 4 is out of range"):
        np.array(layer(x, mx.array([[4, 1], [3, 2], [2, 2]])))


def test_classes_that_are_not_known_are_left():
    mla = pytest.importorskip("mlx_lm.models.mla")
    model = nn.Sequential(mla.QuantizedMultiLinear(K, 64, 2, 64, 4, "affine"), evaluated(nn.QuantizedLinear(K, K)))
    report = drop_in.pack_model(model)
    assert report.packed == ("layers.1",)
    assert report.left == {"layers.0": "QuantizedMultiLinear is no class whose products are known to be x @ w.T"}


def test_parameters_that_do_not_fit_are_left_with_the_reason():
    layer = evaluated(nn.QuantizedLinear(K, K))
    layer.scales = layer.scales[:, :1]
    report = drop_in.pack_model(layer)
    assert report.packed == ()
    assert report.left[""].startswith("[pack] scales has shape")


def test_a_model_without_quantized_parameters_is_left_alone():
    report = drop_in.pack_model(nn.Linear(4, 4))
    assert (report.packed, report.left, report.packed_bytes) == ((), {}, 0)
    with pytest.raises(TypeError, match=r"\[pack_model\] model: expected an mlx.nn.Module, got int"):
        drop_in.pack_model(3)


def test_mlxs_own_functions_unpack_at_each_call():
    layer = evaluated(nn.QuantizedLinear(K, K))
    x = mx.random.normal((2, K))
    drop_in.uninstall()
    before = np.array(layer(x))
    drop_in.pack_model(layer)
    assert np.array_equal(np.array(layer(x)), before)
    assert packed_modules() == 1


def test_other_settings_and_the_other_order_are_read_from_the_arrays():
    layer = evaluated(nn.QuantizedLinear(K, K))
    x = mx.random.normal((2, K))
    arrays = [layer[name] for name in ("weight", "scales", "biases")]
    expected = np.array(mx.quantized_matmul(x, *arrays, transpose=False))
    drop_in.pack_model(layer)
    parts = [layer[name] for name in ("weight", "scales", "biases")]
    assert np.array_equal(np.array(mx.quantized_matmul(x, *parts, transpose=False)), expected)
    with pytest.raises(ValueError, match="quantized_matmul"):
        mx.quantized_matmul(x, *parts, bits=8)
