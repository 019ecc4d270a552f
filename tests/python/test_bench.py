"""The benchmark's Python side."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bench_modules import ROOT, load, load_peers


class TestLearnedRouting:
    def test_the_table_holds_the_choices_of_the_models_routers(self) -> None:
        pytest.importorskip("tokenizers")
        learned = load("learned_routing")
        folder = ROOT / "models" / "shakespeare-moe-affine4"
        counts = learned.count(folder, learned.TOKENS)
        lines = (ROOT / "bench" / "cases" / "learned_routing.txt").read_text().splitlines()
        stored = np.array([line.split() for line in lines if not line.startswith("#")], np.int64)
        # NumPy's part of the model is rounded differently with other libraries, where two experts are as good as equal.
        assert np.abs(counts - stored).sum() <= 1e-3 * counts.sum()
        assert learned.table(counts, folder.name, learned.TOKENS).splitlines()[:2] == lines[:2]


SETTINGS = {
    "experts": 8,
    "n": 96,
    "k": 256,
    "top": 2,
    "row_per_pair": False,
    "tokens": 5,
    "mode": "affine",
    "bits": 4,
    "group_size": 32,
    "transpose": True,
    "routing": "uniform",
    "popularity": [],
    "threads": 1,
    "dtype": "bfloat16",
    "precision": "default",
    "isa": "",
    "whole": False,
    "has_biases": False,
    "activation": {"alpha": 1.0, "limit": None, "bias": 0.0},
    "shared_experts": 0,
    "pool_bytes": 0,
    "peers": [],
    "seconds": 60,
}


class TestRouting:
    @pytest.mark.parametrize("routing", ["uniform", "balanced", "learned"])
    def test_no_token_has_an_expert_twice(self, routing: str) -> None:
        popularity = [0.9, 0.5, 0.3, 0.1, 0.1, 0.1, 0, 0]
        case = load_peers("case").CaseSettings(SETTINGS | {"routing": routing, "popularity": popularity})
        for token in case.route(100):
            assert len(set(token)) == 2
            assert max(token) < 8

    @pytest.mark.parametrize(("experts", "top"), [(8, 2), (8, 5), (5, 5), (3, 1), (1, 1)])
    def test_half_routing_gives_one_expert_half_of_the_rows(self, experts: int, top: int) -> None:
        case = load_peers("case").CaseSettings(SETTINGS | {"routing": "half", "experts": experts, "top": top})
        routed = case.route(101)
        popular = routed[0, 0]
        assert np.sum(routed == popular) == (101 * top if experts == 1 else (101 * top + 1) // 2)
        for token in routed:
            others = token[token != popular]
            assert len(set(others)) == len(others)
        assert set(routed.ravel()) == set(range(experts))

    def test_learned_routing_prefers_experts_as_much_as_it_is_told(self) -> None:
        popularity = np.array([0.9, 0.5, 0.3, 0.1, 0.1, 0.1, 0, 0])
        case = load_peers("case").CaseSettings(SETTINGS | {"routing": "learned", "popularity": popularity})
        tokens = 20000
        chosen = np.bincount(np.concatenate([case.prefer() for _ in range(tokens)]), minlength=8) / tokens
        deviation = np.sqrt(popularity * (1 - popularity) / tokens)
        assert np.all(np.abs(chosen - popularity) <= 5 * deviation)


class TestPeers:
    def test_the_error_is_that_of_the_result(self) -> None:
        peers, random = load_peers("peer"), np.random.default_rng(3)
        x, w = random.standard_normal((6, 32)), random.standard_normal((40, 32))
        product = peers.PeerProduct(
            lambda experts: x @ w.T * 1.01, lambda y: y, lambda experts, row, columns: (x[row], w[columns])
        )
        experts = np.zeros((3, 2), np.uint32)
        assert product.error(experts, product.run(experts), random) == pytest.approx(0.01, rel=1e-9)

    # What each promises: float32 sums of K = 256 terms; bfloat16 results (MLX rounds its sums to bfloat16 as well); activations
    # of 8 bits, each off by 1 / 254 of its block's largest at most, which is below five standard deviations of a normal x.
    @pytest.mark.parametrize(
        ("module", "name", "bound"),
        [
            ("mlx", "mlx gather_qmm float32", 256 * 2**-24),
            ("mlx", "mlx gather_qmm bfloat16", 256 * 2**-9),
            ("torch", "torch dense int8", 0),
            ("torch", "torch dense float32", 256 * 2**-24),
            ("torch", "torch dense bfloat16", 2**-8),
            ("torch", "torch experts float32", 256 * 2**-24),
            ("torch", "torch experts bfloat16", 2**-8),
            ("llama_cpp", "ggml mul_mat_id q4_0", 5 / 254),
            ("llama_cpp", "ggml mul_mat_id q4_K", 5 / 254),
        ],
    )
    @pytest.mark.parametrize("row_per_pair", [False, True])
    def test_a_peer_computes_what_it_says(self, module: str, name: str, bound: float, row_per_pair: bool) -> None:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
        measured = load_peers("case_peers").CasePeers(SETTINGS | {"peers": [name], "row_per_pair": row_per_pair})
        (peer,) = measured.peers
        assert (peer.name, peer.skipped) == (name, "")
        assert 0 < peer.error < bound or peer.error == bound == 0
        assert measured.run(name) > 0

    def test_mlx_refers_whole_layers_to_mlx_lm(self) -> None:
        pytest.importorskip("mlx")
        (peer,) = load_peers("case_peers").CasePeers(LAYER | {"peers": ["mlx"]}).peers
        assert "gqmm bench mlx-lm" in peer.skipped

    def test_a_python_without_numpy_says_what_it_lacks(self) -> None:
        files = [path for package in ("worker", "peers") for path in (ROOT / "bench" / package).glob("*.py")]
        modules = {f"{path.parent.name}.{path.stem}".removesuffix(".__init__"): path.read_text() for path in files}
        start = (ROOT / "bench" / "start.py").read_text()
        requests = json.dumps({"case": SETTINGS}) + "\n"
        bare = [
            sys.executable,
            "-I",
            "-S",
            "-c",
            start,
            "peers",
            *(text for pair in modules.items() for text in pair),
        ]  # no site-packages
        result = subprocess.run(bare, check=True, capture_output=True, text=True, input=requests)
        assert result.stderr == ""
        assert json.loads(result.stdout) == {"error": "ModuleNotFoundError: No module named 'numpy'"}

    def test_a_peer_that_would_not_fit_in_memory_is_skipped(self) -> None:
        pytest.importorskip("mlx")
        measured = load_peers("case_peers").CasePeers(SETTINGS | {"peers": ["mlx"], "experts": 2**40})
        assert {peer.skipped.split()[0] for peer in measured.peers} == {"needs"}
        assert measured.products == {}

    def test_a_peer_that_would_take_too_long_is_skipped(self) -> None:
        pytest.importorskip("mlx")
        measured = load_peers("case_peers").CasePeers(SETTINGS | {"peers": ["mlx gather_qmm float32"], "seconds": 0})
        assert "would take about" in measured.peers[0].skipped


LAYER = SETTINGS | {"whole": True, "n": 256}
GPT_OSS = {"mode": "mxfp4", "has_biases": True, "activation": {"alpha": 1.702, "limit": 7.0, "bias": 1.0}}
SEVERAL_COPIES = {"pool_bytes": 1 + 3 * 8 * 256 * 256 * 4}  # more than a layer in float32

# The relative error δ of one product, from what its types promise: sums of 256 terms in float32; rounding to bfloat16 in every
# step; activations that are rounded to 1 / 127 of a block's largest, which is below five standard deviations, to ± ½ uniformly.
DELTA = {"float32": 256 * 2**-24, "bfloat16": 2**-8, "8 bits": 5 / 127 / 12**0.5}
# The error of h = silu(gate) · up is at most 1.1 |Δgate| |up| + |silu(gate)| |Δup|, because the slope of silu is below 1.1. The
# root mean square of silu(gate) is at least half of gate's, so h has 4.2 δ. The product of down adds one δ, and the sum another.
OF_LAYER = 6.2


class ExactLayer:
    """Makes a PeerLayer of NumPy in float64, whose parts can be left out."""

    def __init__(self, settings: dict[str, object], without: str = "") -> None:
        layer, case = load_peers("layer"), load_peers("case").CaseSettings(LAYER | settings)
        weights = {e: [0.07 * case.activations(*s) for s in ((256, 256),) * 3] for e in (*range(case.experts), None)}

        class Exact(layer.PeerLayer):  # type: ignore[misc, name-defined]
            def matrices(self, expert: int | None) -> list[np.ndarray]:
                return weights[expert]

            def values(self, result: np.ndarray) -> np.ndarray:
                return result

            def compute(self, experts: np.ndarray) -> np.ndarray:
                y = np.zeros((len(experts), case.K))
                for token, x in enumerate(self.x[: len(experts)].astype(np.float64)):
                    for slot, expert in enumerate(experts[token]):
                        gate, up, down = weights[int(expert)]
                        biases = [
                            0.0 if self.biases is None or without == "biases" else bias[expert] for bias in self.biases or "gud"
                        ]
                        h = self.activation(gate @ x + biases[0], up @ x + biases[1])
                        factor = 1 if without == "router weights" else self.router_weights[token, slot]
                        y[token] += factor * (down @ h + biases[2])
                    if case.shared_experts > 0 and without != "shared experts":
                        gate, up, down = weights[None]
                        y[token] += down @ self.activation(gate @ x, up @ x)
                return y

        self.case, self.layer = case, Exact(case, 1)

    def error(self) -> float:
        experts = self.case.route(self.case.tokens)
        error: float = self.layer.error(experts, self.layer.run(experts), self.case.random)
        return error


class TestLayerPeers:
    @pytest.mark.parametrize("settings", [{}, {"shared_experts": 1}, GPT_OSS])
    def test_the_error_of_an_exact_layer_is_that_of_float64(self, settings: dict[str, object]) -> None:
        assert ExactLayer(settings).error() < 1e-13

    @pytest.mark.parametrize(
        ("without", "settings"),
        [("biases", GPT_OSS), ("router weights", {}), ("shared experts", {"shared_experts": 1})],
    )
    def test_the_error_shows_what_is_left_out(self, without: str, settings: dict[str, object]) -> None:
        assert ExactLayer(settings, without).error() > OF_LAYER * DELTA["8 bits"]

    def test_activations_are_those_of_their_formula(self) -> None:
        gate, up = np.array([-200.0, -1, 0, 3, 9], np.float32), np.array([-9.0, 1, 5, 8, 2], np.float32)
        swiglu = load_peers("case").SwiGLU
        assert swiglu(1, None, 0)(gate, up) == pytest.approx(gate * up / (1 + np.exp(-gate.astype(np.float64))), rel=2**-20)
        clipped, factor = np.minimum(gate, 7).astype(np.float64), np.clip(up, -7, 7) + 1
        assert swiglu(1.702, 7, 1)(gate, up) == pytest.approx(factor * clipped / (1 + np.exp(-1.702 * clipped)), rel=2**-20)

    @pytest.mark.parametrize(
        ("module", "name", "arithmetic", "dtype"),
        [
            ("gqmm", "gqmm three gather_qmm float32", "float32", "float32"),
            ("gqmm", "gqmm three gather_qmm bfloat16", "bfloat16", "bfloat16"),
            ("torch", "torch layer float32", "float32", "float32"),
            ("torch", "torch layer bfloat16", "bfloat16", "bfloat16"),
            ("llama_cpp", "ggml layer q4_0", "8 bits", "bfloat16"),
            ("llama_cpp", "ggml layer q4_K", "8 bits", "bfloat16"),
            ("llama_cpp", "ggml layer mxfp4", "8 bits", "bfloat16"),
        ],
    )
    @pytest.mark.parametrize("settings", [{}, {"shared_experts": 1}, {"shared_experts": 2, "top": 1}, SEVERAL_COPIES, GPT_OSS])
    def test_a_peer_computes_what_it_says(
        self, module: str, name: str, arithmetic: str, dtype: str, settings: dict[str, object]
    ) -> None:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
        mode = "mxfp4" if "mxfp4" in name else "affine"
        if module == "llama_cpp" and settings.get("mode", mode) != mode:
            pytest.skip(f"{name} is of another format")
        case = LAYER | {"mode": mode, "dtype": dtype} | settings | {"peers": [name]}
        measured = load_peers("case_peers").CasePeers(case)
        (peer,) = measured.peers
        assert (peer.name, peer.skipped) == (name, "")
        assert 0 < peer.error < OF_LAYER * DELTA[arithmetic]
        layer = measured.products[name]
        assert (layer.copies > 1) == (settings is SEVERAL_COPIES)
        for _ in range(layer.copies + 1):  # every copy of the weights, and other experts
            experts = measured.case.route(3)
            assert 0 < layer.error(experts, layer.run(experts), measured.case.random) < OF_LAYER * DELTA[arithmetic]
        assert measured.run(name) > 0

    def test_a_peer_whose_results_overflow_is_skipped(self) -> None:
        pytest.importorskip("gqmm")
        overflowing = LAYER | {"n": 1024, "k": 1024, "mode": "nvfp4", "group_size": 16, "dtype": "float16", "peers": ["gqmm"]}
        with np.errstate(over="ignore", invalid="ignore"):
            measured = load_peers("case_peers").CasePeers(overflowing)
        assert measured.peers[0].skipped.startswith("ArithmeticError: results are not finite")
        assert measured.products == {}

    def test_a_graph_that_ggml_lacks_is_skipped(self) -> None:
        pytest.importorskip("llama_cpp")
        activation = {"alpha": 1.0, "limit": 7.0, "bias": 0.0}
        measured = load_peers("case_peers").CasePeers(LAYER | {"activation": activation, "peers": ["ggml layer q4_0"]})
        assert "ggml has no SwiGLU(alpha=1.0, limit=7.0" in measured.peers[0].skipped

    def test_the_program_measures_them_beside_a_whole_layer(self, tmp_path: Path) -> None:
        program = shutil.which("gqmm", path=Path(sys.executable).parent) or shutil.which("gqmm")
        if program is None or importlib.util.find_spec("gqmm") is None:
            pytest.skip("the gqmm program is not installed")
        figures = tmp_path / "figures.json"
        suite = ["--suite", "moe", "--only", "small-layer", "--threads", "1", "--repetitions", "1", "--pool", "1"]
        subprocess.run([program, "bench", *suite, "--peers", sys.executable, "--json", figures], check=True, capture_output=True)
        (case,) = json.loads(figures.read_text())["cases"]
        peers = {peer["name"]: peer for peer in case["peers"]}
        ours = peers["gqmm three gather_qmm bfloat16"]
        assert 0 < ours["relative_error"] < OF_LAYER * DELTA["bfloat16"]
        assert ours["times_slower"]["median"] > 0
        assert {name.split()[0] for name in peers} == {"gqmm", "torch", "ggml"}


def limits_of(cases: list[dict[str, object]]) -> dict[str, object]:
    return {"gqmm_bench": 1, "suite": "limits", "machine": {"cpu": "Example CPU"}, "cases": cases}


def a_case(rows: int, slices: int, packed: bool, peers: list[dict[str, object]]) -> dict[str, object]:
    def limit(name: str, rate: float) -> dict[str, object]:
        return {"limit": name, "per_second": {"median": rate}}

    return {
        "shape": {"name": "example", "experts": 128, "N": 768, "K": 2048, "top": 8},
        "tokens": 16 * rows,
        "rows_per_expert": float(rows),
        "experts_hit": 128.0,
        "mode": "affine",
        "bits": 4,
        "group_size": 64,
        "slices": slices,
        "packed": packed,
        "cached": False,
        "routing": "balanced",
        "threads": 1,
        "instruction_set": "avx512vnni",
        "operations": 2.0 * 128 * rows * 768 * 2048,
        "bytes": 113246208.0,
        "seconds": {"median": 2e-3 * rows},
        "arithmetic": limit("int8 dot", 1e12),
        "memory": limit("DRAM read", 40e9),
        "repetitions": 9,
        "relative_error": 1e-3,
        "peers": peers,
    }


class TestPlots:
    def draw(self, tmp_path: Path, document: object) -> list[Path]:
        pytest.importorskip("matplotlib")
        path = tmp_path / "limits-example.json"
        path.write_text(json.dumps(document))
        return load("plots").draw(path)

    def test_a_roofline_and_bars_are_drawn_as_svg_and_png(self, tmp_path: Path) -> None:
        peer = {"name": "slow library", "repetitions": 3, "seconds": {"median": 1.0}, "relative_error": 0.03}
        cases = [a_case(rows, slices, packed, [peer, {"name": "absent", "skipped": "not installed"}] if slices == 2 else [])
                 for rows in (1, 8) for slices in (1, 2, 3) for packed in (False, True)]  # fmt: skip
        written = self.draw(tmp_path, limits_of(cases))
        expected = [f"limits-example-{plot}.{kind}" for plot in ("roofline", "peers") for kind in ("svg", "png")]
        assert [path.name for path in written] == expected
        before = [path.read_bytes() for path in written]
        assert before[0].startswith(b"<?xml")
        assert before[1].startswith(b"\x89PNG")
        assert [path.read_bytes() for path in self.draw(tmp_path, limits_of(cases))] == before, "the same figures, another file"

    def test_rounded_numbers_of_rows_are_one_place_with_its_tick(self) -> None:
        pytest.importorskip("matplotlib")
        plots = load("plots")
        cases = [a_case(rows, 2, packed, []) for rows in (1, 32, 128) for packed in (False, True)]
        cases[2]["rows_per_expert"] = 31.99
        cases[4]["rows_per_expert"] = 127.99999999999997
        cases[5]["rows_per_expert"] = 127.99999999999997
        figure = plots.roofline(limits_of(cases))
        assert figure is not None
        assert list(figure.axes[0].get_xticks()) == [1, 2, 4, 8, 16, 32, 64, 128]
        lines = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
        assert [list(line.get_xdata()) for line in lines] == [[1, 32, 128]] * 2

    def test_a_roofline_of_layers_is_of_the_one_with_most_cases(self) -> None:
        pytest.importorskip("matplotlib")
        cases = [a_case(rows, 2, False, []) for rows in (1, 32, 128, 2)]
        for case, name in zip(cases, ("one", "one", "one", "other"), strict=True):
            case["shape"] = {**cases[0]["shape"], "name": name, "whole": True}  # type: ignore[dict-item]
        figure = load("plots").roofline(limits_of(cases) | {"suite": "moe"})
        assert figure is not None
        (line,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
        assert list(line.get_xdata()) == [1, 32, 128]
        assert figure.axes[0].get_ylabel() == "GOP/s (6 · rows · N · K / time)"

    def test_one_number_of_rows_is_no_roofline(self) -> None:
        pytest.importorskip("matplotlib")
        cases = [a_case(32, 2, packed, []) for packed in (False, True)]
        cases[0]["rows_per_expert"] = 31.999999999999993
        assert load("plots").roofline(limits_of(cases)) is None

    def test_peers_of_every_case_have_their_bar(self) -> None:
        pytest.importorskip("matplotlib")

        def peer(name: str, repetitions: int, seconds: float) -> dict[str, object]:
            return {"name": name, "repetitions": repetitions, "seconds": {"median": seconds}, "relative_error": 0.03}

        cases = [
            a_case(8, 3, False, [peer("a", 2, 1.0), peer("b", 9, 1.0), {"name": "c", "skipped": "would take about 3 s"}]),
            a_case(8, 2, False, [peer("a", 9, 0.5), peer("c", 1, 1.0), peer("d", 0, 1.0)]),
            a_case(8, 2, True, [peer("a", 3, 2.0)]),
        ]
        figure = load("plots").peer_bars(limits_of(cases))
        assert figure is not None
        (axes,) = figure.axes
        labels = [label.get_text().split(" (")[0] for label in axes.get_yticklabels()]
        assert labels == ["gqmm bfloat16", "gqmm float32", "a", "b", "c"]
        rates = [bar.get_width() * 1e9 / cases[0]["operations"] for bar in axes.patches]
        assert rates[2:] == pytest.approx([2, 1, 1]), "each peer where it has most repetitions"

    def test_every_program_has_its_own_colour_and_marker(self) -> None:
        pytest.importorskip("matplotlib")
        plots, ggml = load("plots"), load_peers("ggml")
        names = {plots.style_of(f"{peer} {name}") for name in ggml.Ggml.TYPES for peer in ("ggml mul_mat_id", "ggml layer")}
        assert names < set(plots.PEERS.values())
        assert len(set(plots.PEERS.values())) == len(plots.PEERS)
        together = [colour for colour, _ in plots.PEERS.values() if colour != "#999999"]
        together += [colour for _, colour in plots.PRECISIONS.values()]
        assert len(set(together)) == len(together) == 15
        assert plots.style_of("torch layer float32") == plots.PEERS["torch experts float32"]

    def test_cases_without_an_accepted_repetition_are_not_drawn(self, tmp_path: Path) -> None:
        cases = [a_case(rows, 2, False, []) for rows in (1, 8)]
        cases[1]["repetitions"] = 0
        with pytest.raises(ValueError, match="neither two numbers of rows"):
            self.draw(tmp_path, limits_of(cases))

    def test_bars_are_of_the_layer_with_most_peers(self) -> None:
        pytest.importorskip("matplotlib")
        peer = {"name": "torch layer bfloat16", "repetitions": 3, "seconds": {"median": 1.0}, "relative_error": 0.03}
        cases = [a_case(rows, 2, False, [peer]) for rows in (1, 8, 32, 128)]
        for case, name, whole in zip(cases, ("one", "other", "other", "one"), (False, True, True, True), strict=True):
            case["shape"] = {**cases[0]["shape"], "name": name, "whole": whole}  # type: ignore[dict-item]
        cases.append({**cases[1], "tokens": 3, "peers": [peer]})
        figure = load("plots").peer_bars(limits_of(cases))
        assert figure is not None
        assert "other: 128 experts" in figure.get_suptitle()
        assert [axes.get_title(loc="left").split(" (")[0] for axes in figure.axes] == ["T = 3", "T = 128", "T = 512"]
        assert figure.get_supxlabel() == "GOP/s (6 · rows · N · K / time)"

    def test_suites_that_vary_more_than_rows_have_no_roofline(self, tmp_path: Path) -> None:
        document = limits_of([a_case(rows, 2, False, []) for rows in (1, 8)]) | {"suite": "routing"}
        with pytest.raises(ValueError, match="neither two numbers of rows"):
            self.draw(tmp_path, document)

    def test_figures_without_anything_to_draw_are_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="--suite limits"):
            self.draw(tmp_path, limits_of([a_case(1, 2, False, [])]))
        with pytest.raises(ValueError, match="holds no figures"):
            self.draw(tmp_path, [])
