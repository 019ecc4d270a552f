"""Draw the figures that `gqmm bench` measured.

    python bench/report/plots.py bench/results/limits-….json

The program writes plots beside the file, as SVG and PNG, for every number of threads in it:

    …-roofline    rates over rows per expert, one line per precision, under the limits of the machine in that run; other libraries
                  are points
    …-peers       the rates of cases beside which other libraries were measured, as bars: the fewest tokens, the most, and some in
                  between; a library that was measured beside several such cases is drawn where it had most repetitions

The program needs matplotlib. It draws only figures that the file holds.
"""

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

# The label and colour for each number of slices. The colours are Okabe and Ito's, which colour-blind readers can tell apart.
PRECISIONS = {1: ("fast, 8-bit activations", "#009e73"), 2: ("bfloat16", "#0072b2"), 3: ("float32", "#d55e00")}
# The colour and marker of every other program, the same in all files. The two types of a library have two shades of a colour.
# ggml's formats with other than 4 bits differ only by their markers, because no file has them side by side.
PEERS = {
    "gqmm three gather_qmm bfloat16": ("#5e3c99", "v"),
    "gqmm three gather_qmm float32": ("#9a7fc7", "^"),
    "gqmm three gather_qmm bfloat16 fast": ("#c9b8e3", "<"),
    "mlx gather_qmm bfloat16": ("#cc79a7", "v"),
    "mlx gather_qmm float32": ("#803e63", "^"),
    "torch dense int8": ("#000000", "X"),
    "torch dense bfloat16": ("#e69f00", "P"),
    "torch dense float32": ("#8a5a00", "*"),
    "torch experts bfloat16": ("#f0e442", "d"),
    "torch experts float32": ("#9a8f00", "p"),
    "ggml mul_mat_id q4_0": ("#56b4e9", "s"),
    "ggml mul_mat_id q4_K": ("#b5dff7", "D"),
    "ggml mul_mat_id q2_K": ("#999999", "<"),
    "ggml mul_mat_id q3_K": ("#999999", ">"),
    "ggml mul_mat_id q5_K": ("#999999", "h"),
    "ggml mul_mat_id q6_K": ("#999999", "H"),
    "ggml mul_mat_id q8_0": ("#999999", "8"),
    "ggml mul_mat_id mxfp4": ("#999999", "o"),
}
OTHER_PEER = ("#666666", ".")
# Programs that compute whole layers look like those that compute their products. No plot has both.
PRODUCT_OF_LAYER = {"torch layer": "torch experts", "ggml layer": "ggml mul_mat_id"}
LIMIT = "#555555"

CaseFigures = dict[str, Any]


def style_of(peer: str) -> tuple[str, str]:
    """Return the colour and the marker of another program."""
    for layer_name, product in PRODUCT_OF_LAYER.items():
        if peer.startswith(layer_name):
            return PEERS.get(product + peer.removeprefix(layer_name), OTHER_PEER)
    return PEERS.get(peer, OTHER_PEER)


def rate(case: CaseFigures, seconds: float | None = None) -> float:
    """Return the rate of a case in GOP/s, or of a peer that needs this number of seconds for the case."""
    return case["operations"] / (seconds or case["seconds"]["median"]) / 1e9


def rate_label(case: CaseFigures) -> str:
    return f"GOP/s ({6 if case['shape'].get('whole') else 2} · rows · N · K / time)"


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def rows(case: CaseFigures) -> float:
    """Return the rows per expert, rounded to three digits, so that nearly equal cases get the same place in a plot.

    Older files have 127.99999999999997 for 128.
    """
    return float(f"{case['rows_per_expert']:.3g}")


def layer(case: CaseFigures) -> tuple[Any, ...]:
    return case["shape"]["name"], case["mode"], case["bits"], case["group_size"], case["instruction_set"]


def slices(case: CaseFigures) -> int:
    return case["slices"]


def peers_beside(cases: list[CaseFigures]) -> dict[str, dict[str, Any]]:
    """Find the peers that were measured beside any of the cases, by name. Each is taken where it has most repetitions."""
    best: dict[str, dict[str, Any]] = {}
    for peer in (peer for case in cases for peer in case["peers"]):
        least = best[peer["name"]]["repetitions"] if peer["name"] in best else 0
        if "seconds" in peer and peer["repetitions"] > least:
            best[peer["name"]] = peer
    return dict(sorted(best.items()))


def chosen(cases: list[CaseFigures]) -> list[CaseFigures]:
    """Return the cases of the layer with most cases. If some have equal numbers of rows for all experts, only those are kept."""
    if not cases:
        return []
    common = Counter(layer(case) for case in cases).most_common(1)[0][0]
    cases = [case for case in cases if layer(case) == common]
    return [case for case in cases if case["routing"] == "balanced"] or cases


def drawable(document: dict[str, Any]) -> list[CaseFigures]:
    """Return the cases that are computed with int8 dot products and whose weights come from memory.

    Cases whose repetitions were all rejected are left out.
    """
    return [case for case in document["cases"]
            if case["arithmetic"]["limit"] == "int8 dot" and not case["cached"] and case["repetitions"] > 0]  # fmt: skip


def title(case: CaseFigures) -> str:
    shape = case["shape"]
    bits = f"{case['mode']} {case['bits']}-bit, groups of {case['group_size']}"
    return f"{shape['name']}: {shape['experts']} experts, N {shape['N']}, K {shape['K']}, top {shape['top']}; {bits}"


def draw_limits(axes: Axes, cases: list[CaseFigures], places: list[float]) -> None:
    """Draw the limit for one dot product per weight and row, and the lower limits for two and three."""
    peak = median(case["arithmetic"]["per_second"]["median"] for case in cases) / 1e9
    dram = median(case["memory"]["per_second"]["median"] for case in cases) / 1e9
    per_byte = median(case["operations"] / case["rows_per_expert"] / case["bytes"] for case in cases)
    left, right = min(places) / 1.4, max(places) * 1.4
    for count in (1, 2, 3):
        ceiling = peak / count
        corner = ceiling / (per_byte * dram)
        xs = [left, corner, right] if left < corner < right else [left, right]
        style = "-" if count == 1 else (0, (4, 3))
        axes.plot(xs, [min(ceiling, x * per_byte * dram) for x in xs], color=LIMIT, linestyle=style, linewidth=1, zorder=1)
        name = "1" if count == 1 else f"1/{count}"
        axes.annotate(name, (right, ceiling), xytext=(4, 0), textcoords="offset points", va="center", color=LIMIT, fontsize=8)
    axes.set_title(f"{cases[0]['threads']} thread{'s' if cases[0]['threads'] > 1 else ''}: int8 dot {peak:,.0f} GOP/s, "
                   f"DRAM read {dram:.1f} GB/s", fontsize=9)  # fmt: skip
    axes.set_xlim(left, right)


def draw_lines(axes: Axes, cases: list[CaseFigures]) -> None:
    for packed in (False, True):
        for count, (name, colour) in PRECISIONS.items():
            # Of two cases with the same number of rows, the one with more tokens is drawn. The call of a single token is short.
            points: dict[float, CaseFigures] = {}
            for case in sorted(cases, key=lambda case: case["tokens"]):
                if case["packed"] == packed and slices(case) == count:
                    points[rows(case)] = case
            if points:
                xs = sorted(points)
                style = {"linestyle": "--", "markerfacecolor": "white"} if packed else {}
                axes.plot(xs, [rate(points[x]) for x in xs], marker="o", markersize=5, color=colour, zorder=3,
                          label=f"gqmm {name}, {'packed' if packed else 'in place'}", **style)  # fmt: skip


def draw_peers(axes: Axes, cases: list[CaseFigures]) -> None:
    points: dict[str, list[tuple[float, float]]] = {}
    for place in sorted({rows(case) for case in cases}):
        there = [case for case in cases if rows(case) == place]
        longest = [case for case in there if case["tokens"] == max(case["tokens"] for case in there)]
        for name, peer in peers_beside(longest).items():
            points.setdefault(name, []).append((place, rate(longest[0], peer["seconds"]["median"])))
    for name, where in sorted(points.items()):
        colour, marker = style_of(name)
        axes.plot(*zip(*where, strict=True), linestyle="none", marker=marker, markersize=6.5, color=colour,
                  markeredgecolor="#404040", markeredgewidth=0.5, zorder=2, label=name)  # fmt: skip


def roofline(document: dict[str, Any]) -> Figure | None:
    cases = chosen(drawable(document))
    places = sorted({rows(case) for case in cases})
    # Other suites vary more than the rows of an expert, so a line through their cases would have no meaning.
    if len(places) < 2 or document["suite"] not in ("", "limits", "moe"):
        return None
    teams = sorted({case["threads"] for case in cases})
    figure, panels = plt.subplots(1, len(teams), figsize=(1 + 5.2 * len(teams), 6.4), sharey=True, squeeze=False)
    for axes, threads in zip(panels[0], teams, strict=True):
        here = [case for case in cases if case["threads"] == threads]
        draw_limits(axes, here, places)
        draw_lines(axes, here)
        draw_peers(axes, here)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks([2**n for n in range(20) if min(places) <= 2**n <= max(places)])
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:,g}")
        axes.yaxis.set_minor_formatter(LogFormatter())  # labels between powers of 10, if the rates span few of them
        axes.grid(True, which="major", color="#e5e5e5", zorder=0)
        axes.set_xlabel("rows per expert")
    panels[0][0].set_ylabel(rate_label(cases[0]))
    handles = {label: line for axes in panels[0] for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    columns = 2 * len(teams)
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=columns, fontsize=8, frameon=False)
    figure.suptitle(f"{title(cases[0])}\n{document['machine']['cpu']}, {cases[0]['instruction_set']}", fontsize=10)
    figure.tight_layout(rect=(0, 0.03 * (1 + -(-len(handles) // columns)), 1, 1))
    return figure


def bars_of(cases: list[CaseFigures]) -> list[tuple[str, float, str]]:
    """List (label, rate, colour) for gqmm in place in every measured precision, then for the peers."""
    bars = []
    for case in sorted(cases, key=slices):
        if not case["packed"]:
            name, colour = PRECISIONS[slices(case)]
            bars.append((f"gqmm {name} (error {case['relative_error']:.0e})", rate(case), colour))
    for name, peer in peers_beside(cases).items():
        error = f"error {peer['relative_error']:.0e}" if peer["relative_error"] > 0 else "exact"
        bars.append((f"{name} ({error})", rate(cases[0], peer["seconds"]["median"]), style_of(name)[0]))
    return bars


def peer_bars(document: dict[str, Any]) -> Figure | None:
    # A panel shows the cases with the same routing, tokens and threads, if peers were measured beside any of them. They are those
    # of the layer with most such cases.
    with_peers = Counter(layer(case) for case in drawable(document) if peers_beside([case]))
    groups: dict[tuple[Any, ...], list[CaseFigures]] = {}
    for case in drawable(document):
        if layer(case) == max(with_peers, key=lambda each: with_peers[each], default=None):
            groups.setdefault((case["routing"], case["tokens"], case["threads"]), []).append(case)
    panels = [cases for cases in groups.values() if peers_beside(cases)]
    if not panels:
        return None
    teams = len({cases[0]["threads"] for cases in panels})
    tokens = sorted({cases[0]["tokens"] for cases in panels})
    shown = {tokens[0], tokens[len(tokens) // 2], tokens[-1]}
    panels = sorted((cases for cases in panels if cases[0]["tokens"] in shown),
                    key=lambda cases: (cases[0]["tokens"], cases[0]["threads"]))  # fmt: skip
    lines = -(-len(panels) // teams)
    bars = [bars_of(cases) for cases in panels]
    height = 1.2 + sum(0.75 + 0.21 * max(len(each) for each in bars[line * teams : (line + 1) * teams]) for line in range(lines))
    ratios = [3 + max(len(each) for each in bars[line * teams : (line + 1) * teams]) for line in range(lines)]
    figure, grid = plt.subplots(lines, teams, figsize=(6.2 * teams, height), squeeze=False, height_ratios=ratios)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (case, *_), each in zip(grid.flat, panels, bars, strict=False):
        labels, rates, fills = zip(*each, strict=True)
        positions = range(len(each))
        axes.barh(positions, rates, color=fills, height=0.72)
        axes.set_yticks(positions, labels, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12 * max(rates))
        for position, value in zip(positions, rates, strict=True):
            axes.annotate(f"{value:,.0f}" if value >= 10 else f"{value:.2g}", (value, position), xytext=(3, 0),
                          textcoords="offset points", va="center", fontsize=8)  # fmt: skip
        threads = f"{case['threads']} thread{'s' if case['threads'] > 1 else ''}"
        there = f"{rows(case):g} row{'' if rows(case) == 1 else 's'} per expert"
        axes.set_title(f"T = {case['tokens']} ({there}), {threads}", fontsize=9, loc="left")
        axes.tick_params(axis="x", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(rate_label(panels[0][0]), fontsize=9)
    figure.suptitle(f"{title(panels[0][0])}\n{document['machine']['cpu']}", fontsize=10)
    figure.tight_layout()
    return figure


def save(figure: Figure, stem: Path) -> list[Path]:
    paths = [Path(f"{stem}.{kind}") for kind in ("svg", "png")]
    for path in paths:
        # The file gets no date and no random names, so that the same figures give the same file.
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    return paths


class NothingToDrawError(ValueError):
    """An error for a file of `gqmm bench` whose cases give nothing to draw."""


def draw(path: Path) -> list[Path]:
    """Draw the plots of a file and return the files written.

    Raises ValueError for a file that `gqmm bench` did not write, or for a file without anything to draw.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or document.get("gqmm_bench") != 1:
        raise ValueError(f"{path} holds no figures of `gqmm bench`; make some with `gqmm bench --json FILE`")
    mpl.rcParams["svg.hashsalt"] = "gqmm"
    written = []
    for name, figure in (("roofline", roofline(document)), ("peers", peer_bars(document))):
        if figure is not None:
            written += save(figure, path.with_name(f"{path.stem}-{name}"))
    if not written:
        raise NothingToDrawError(
            f"{path} has neither two numbers of rows per expert to draw nor other libraries; try --suite limits"
        )
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("figures", type=Path, nargs="+", help="files of `gqmm bench --json` or --results")
    parser.add_argument("--if-any", action="store_true", help="a file without anything to draw is no error")
    arguments = parser.parse_args()
    for path in arguments.figures:
        try:
            print(*draw(path), sep="\n")
        except ValueError as error:
            if arguments.if_any and isinstance(error, NothingToDrawError):
                continue
            raise SystemExit(f"plots: {error}") from None
        except KeyError as error:
            raise SystemExit(f"plots: {path} lacks {error}: an older gqmm made it; measure again") from None


if __name__ == "__main__":
    main()
