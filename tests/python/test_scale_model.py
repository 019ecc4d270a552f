"""The model of experts on several nodes: bench/scale_model.py."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_modules import ROOT, load
from gqmm import dispatch

scale = load("scale_model")
FREE = scale.Network("free", 0, 0, math.inf)
ROCE = scale.AIM_NETWORK
QWEN, DEEPSEEK = scale.MODELS
NODE = scale.Node()


def predict(model: Any, nodes: int, tokens: int, network: Any = ROCE, node: Any = NODE) -> Any:
    (figures,) = scale.predict(model, nodes, tokens, [network], node)
    return figures


class TestModels:
    def test_sizes_are_those_of_the_checkpoints(self) -> None:
        for model, attention, gigabytes in ((QWEN, 71.3e6, 128), (DEEPSEEK, 187e6, 368)):
            assert model.attention_weights == pytest.approx(attention, rel=1e-3)
            assert model.layers * model.experts * model.expert_bytes == pytest.approx(gigabytes * 1e9, rel=0.01)


class TestTraffic:
    @pytest.mark.parametrize(
        ("ranks", "experts", "top", "count"), [(2, 8, 2, 5), (3, 16, 4, 9), (16, 128, 8, 64), (64, 99, 8, 7)]
    )
    def test_a_dispatch_plan_sends_as_much(self, ranks: int, experts: int, top: int, count: int) -> None:
        rng = np.random.default_rng(ranks)
        ids = np.argsort(rng.random((count, experts)), axis=1)[:, :top]
        owners = np.arange(experts) * ranks // experts
        homes = np.arange(count) % ranks
        traffic = scale.count_traffic(ids, owners, homes, ranks)
        placed = dispatch.ExpertOwners.contiguous(experts, ranks)
        x = np.zeros((count, 32), np.float16)  # of as many bytes as bfloat16
        for rank in range(ranks):
            np.testing.assert_array_equal(placed.experts_of(rank), np.flatnonzero(owners == rank))
            plan = dispatch.DispatchPlan(ids[homes == rank], placed, rank, ranks, experts)
            np.testing.assert_array_equal(traffic.rows[rank], plan.send_counts)
            np.testing.assert_array_equal(traffic.results[rank], plan.recv_counts)
            sent = dispatch.pack_rows(plan, x[homes == rank])
            assert traffic.row_bytes(32, top)[rank].sum() == sent.nbytes + plan.send_ids.nbytes
            returned = np.zeros((plan.recv_counts.sum(), 32), np.float16)
            assert traffic.result_bytes(32)[rank].sum() == returned.nbytes

    def test_the_busiest_node_counts_and_nothing_goes_to_itself(self) -> None:
        sent = np.array([[1000, 10, 20], [0, 1000, 0], [0, 40, 1000]])
        assert scale.Exchange.of_results(sent) == scale.Exchange(1, 2, 50, copies=2), "node 1 receives 10 and 40"
        assert scale.Exchange.of_rows(sent) == scale.Exchange(1, 4, 50, copies=1), "rows and ids are a message each"
        assert scale.Exchange.of_results(np.diag([7, 7, 7])) == scale.Exchange(0, 0, 0, copies=2)
        assert scale.Exchange.header(16) == scale.Exchange(1, 15, 0, copies=0)


class TestTimes:
    WORK = scale.Work(nodes=2, attention=3.0, shared=1.0, experts=8.0, header=scale.Exchange.header(2),
                      rows=scale.Exchange(1, 2, 40, 1), results=scale.Exchange(1, 2, 80, 2))  # fmt: skip
    NETWORK = scale.Network("of whole numbers", 0.5, 0.25, 10)
    NODE = dataclasses.replace(NODE, dram_read=math.inf)  # copies cost nothing

    def test_a_product_takes_as_long_as_memory_or_arithmetic(self) -> None:
        node = scale.Node(cores=2, dram_read=1e9, of_dram=0.5, int8_dot=4e9, of_int8_dot=0.25)
        reading, computing = 1e6 * scale.BYTES_PER_WEIGHT / 0.5e9, 2 * 1e6 * 100 / 2e9
        np.testing.assert_allclose(node.product_seconds(1e6, [0, 1, 100]), [0, reading, computing])

    def test_steps_follow_each_other(self) -> None:
        exchanges = (0.5 + 0.25) + (0.5 + 2 * 0.25 + 4) + (0.5 + 2 * 0.25 + 8)
        assert scale.seconds_in_turn(self.WORK, self.NETWORK, self.NODE) == pytest.approx(12 + exchanges)
        busy = dataclasses.replace(self.NODE, dispatch_seconds=7)
        assert scale.seconds_in_turn(self.WORK, self.NETWORK, busy) == pytest.approx(12 + exchanges + 7)

    def test_a_copy_reads_and_writes_every_byte(self) -> None:
        node = dataclasses.replace(NODE, dram_read=100.0)
        assert scale.Exchange(1, 2, 50, 3).transfer_seconds(self.NETWORK, node) == pytest.approx(0.5 + 50 / 10 + 50 * 6 / 100)

    def test_chunks_are_computed_while_others_travel(self) -> None:
        # Rows of both chunks: 2 · 2 messages and 40 bytes, 5 s. The shared expert ends at 1, chunks at 2.5 + 4 and 6.5 + 4.
        # Results take 4.5 s a chunk: from 6.5 to 11, and from 11 to 15.5.
        expected = 3 + (0.5 + 0.25) + 2 * 0.5 + 15.5
        assert scale.seconds_overlapped(self.WORK, self.NETWORK, self.NODE, 2) == pytest.approx(expected)

    def test_without_chunks_and_shared_experts_nothing_overlaps(self) -> None:
        work = dataclasses.replace(self.WORK, shared=0.0)
        in_turn = scale.seconds_in_turn(work, self.NETWORK, self.NODE)
        assert scale.seconds_overlapped(work, self.NETWORK, self.NODE, 1) == pytest.approx(in_turn)

    @pytest.mark.parametrize("chunks", scale.CHUNKS)
    def test_overlap_hides_at_most_the_shorter_of_both(self, chunks: int) -> None:
        work = scale.work_of(QWEN, 16, 256, NODE)
        transfers = [each.transfer_seconds(ROCE, NODE, chunks) for each in (work.rows, work.results)]
        overlapped = scale.seconds_overlapped(work, ROCE, NODE, chunks)
        assert overlapped >= work.attention + max(work.shared + work.experts, sum(transfers))


class TestPredictions:
    @pytest.mark.parametrize("model", scale.MODELS, ids=lambda model: model.name)
    def test_one_node_has_no_exchange(self, model: Any) -> None:
        figures = predict(model, 1, 8, node=dataclasses.replace(NODE, dispatch_seconds=1.0))
        assert (figures.efficiency, figures.speed_up) == (1, 1)
        assert figures.gain == pytest.approx(0, abs=1e-12)

    @pytest.mark.parametrize("tokens", [1, 64])
    def test_a_free_network_has_efficiency_1(self, tokens: int) -> None:
        copies_for_nothing = dataclasses.replace(NODE, dram_read=1e30, of_dram=NODE.dram_read * NODE.of_dram / 1e30)
        figures = predict(DEEPSEEK, 16, tokens, FREE, copies_for_nothing)
        assert figures.efficiency == pytest.approx(1)
        assert figures.gain == pytest.approx(0, abs=1e-12)

    @pytest.mark.parametrize("model", scale.MODELS, ids=lambda model: model.name)
    @pytest.mark.parametrize("change", [{"bytes_per_second": 23e9}, {"latency": 1e-6}, {"per_message": 0.1e-6}])
    def test_a_better_network_is_more_efficient(self, model: Any, change: dict[str, float]) -> None:
        better = dataclasses.replace(ROCE, **change)
        for tokens in (1, 64, 4096):
            assert predict(model, 16, tokens, better).efficiency > predict(model, 16, tokens).efficiency

    def test_a_faster_node_waits_more_for_the_network(self) -> None:
        fast = dataclasses.replace(NODE, cores=2 * NODE.cores)
        assert predict(QWEN, 16, 4096, node=fast).efficiency < predict(QWEN, 16, 4096).efficiency

    def test_many_tokens_use_the_nodes(self) -> None:
        assert 0.8 * 16 < predict(QWEN, 16, 65536, FREE).speed_up <= 16

    def test_chunks_are_no_more_than_the_experts_of_a_node(self) -> None:
        assert predict(QWEN, 128, 4096).chunks == 1
        assert predict(QWEN, 64, 4096).chunks == 2


MEASURED = {
    "gqmm_bench_scale": 1,
    "machine": {"cpu": "a processor"},
    "cases": [
        {"tokens": 1, "ranks": 1, "alone": {"of_dram": {"median": 0.5}, "of_arithmetic": {"median": 0.1}}},
        {"tokens": 256, "ranks": 1, "alone": {"of_dram": {"median": 0.2}, "of_arithmetic": {"median": 0.3}}},
        {"tokens": 256, "ranks": 2},
    ],
    "dispatch": {"tokens": 1, "seconds": {"median": 40e-6}},
}  # fmt: skip


class TestReport:
    def test_measured_figures_make_the_node(self) -> None:
        node = scale.node_from_measured(MEASURED, scale.Node(cores=10, dram_read=1e9, int8_dot=100e9))
        assert node.weight_bytes_per_second == 0.5e9
        assert node.operations_per_second == pytest.approx(10 * 30e9)
        assert node.dispatch_seconds == pytest.approx(40e-6)

    def test_committed_reports_are_read(self) -> None:
        reports = list((ROOT / "bench" / "results").glob("scale-*.json"))
        assert reports
        for path in reports:
            node = scale.node_from_measured(json.loads(path.read_text()), NODE)
            assert 0.1 < node.of_int8_dot < 0.5, "two slices reach half of the peak at most"

    def test_the_report_says_what_it_assumes_and_whether_aims_are_met(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "figures.json"
        path.write_text(json.dumps(MEASURED))
        assert scale.main(["--measured", str(path), "--nodes", "4", "--network", "mine,3,0.5,11.5"]) == 0
        text = capsys.readouterr().out
        assert "0.50 of that rate with few tokens, and 0.30 of that peak with many (measured on a processor)" in text
        assert "take 40 µs in a layer" in text
        assert "| tokens | nodes | mine |" in text
        for model in scale.MODELS:
            assert text.count(f"| {model.name} | ") == 2 * len(scale.AIM_TOKENS), "with and without the time of planning"

    @pytest.mark.parametrize(("cores", "verdict"), [(1, "met"), (4096, "not met")])
    def test_verdicts_are_those_of_the_efficiency(self, cores: int, verdict: str) -> None:
        rows = scale.aim_rows(DEEPSEEK, dataclasses.replace(NODE, cores=cores))
        assert rows[-1][4] == verdict
        assert (float(rows[-1][2]) >= scale.AIMS["DeepSeek-V3"]) == (verdict == "met")

    def test_another_file_is_an_error_with_the_remedy(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "figures.json"
        path.write_text('{"cases": []}')
        assert scale.main(["--measured", str(path)]) == 2
        assert "measure again with --json FILE" in capsys.readouterr().err

    def test_the_time_for_planning_may_be_given(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "figures.json"
        path.write_text(json.dumps(MEASURED))
        assert scale.main(["--measured", str(path), "--nodes", "4", "--network", "mine,3,0.5,11.5", "--dispatch", "7"]) == 0
        assert "take 7 µs in a layer" in capsys.readouterr().out

    def test_figures_without_one_rank_are_an_error_with_the_remedy(self) -> None:
        with pytest.raises(ValueError, match="1 among --ranks"):
            scale.node_from_measured(MEASURED | {"cases": MEASURED["cases"][2:]}, NODE)

    @pytest.mark.parametrize("value", ["RoCE", "RoCE,1,2", "RoCE,1,2,fast", "RoCE,1,2,0", "RoCE,-1,2,3"])
    def test_a_network_that_is_none_is_an_error(self, value: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            scale.main(["--network", value])
        assert value in capsys.readouterr().err
