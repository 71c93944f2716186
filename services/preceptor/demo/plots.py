"""The report's plots, as inline SVG."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]
_COLORS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2", "#64748b", "#be185d", "#65a30d")
_NAMED_SHARE = 0.025  # of the width: names of shorter stages would lie on each other


def gold_plot(by_version: Sequence[Mapping[str, float]], sft: Mapping[str, float], final: Mapping[str, Any]) -> str:
    """Gold by policy version: live rollouts with two standard errors, and the two held-out evaluations."""
    figure, axes = _axes("policy version", "gold score")
    versions = [row["policy_version"] for row in by_version]
    means = [row["mean"] for row in by_version]
    axes.fill_between(
        versions,
        [row["mean"] - 2 * row["se"] for row in by_version],
        [row["mean"] + 2 * row["se"] for row in by_version],
        color=_COLORS[0],
        alpha=0.15,
        linewidth=0,
    )
    axes.plot(versions, means, color=_COLORS[0], label="live rollouts (± 2 se)")
    ends = [(0.0, sft), (float(final["policy_version"]), final)]
    axes.errorbar(
        [x for x, _ in ends],
        [row["mean"] for _, row in ends],
        yerr=[2 * row["se"] for _, row in ends],
        fmt="o",
        color=_COLORS[1],
        capsize=3,
        label="held-out prompts (± 2 se)",
    )
    axes.legend(frameon=False, loc="lower right")
    return _svg(figure)


def curve_plot(points: Points, ylabel: str, color: int, marks: Sequence[float] = ()) -> str:
    """One curve by policy version; marks are vertical lines where the reward model changed."""
    figure, axes = _axes("policy version", ylabel)
    axes.plot([x for x, _ in points], [y for _, y in points], color=_COLORS[color])
    for mark in marks:
        axes.axvline(mark, color="#94a3b8", linestyle="--", linewidth=1)
    return _svg(figure)


def accuracy_plot(models: Sequence[Mapping[str, Any]]) -> str:
    """Held-out accuracy of each reward model beside what perfect knowledge of gold would reach on its labels."""
    figure, axes = _axes("reward model version", "preferences ordered as the raters did")
    places = range(len(models))
    axes.bar(
        [p - 0.2 for p in places], [m["heldout_accuracy"] for m in models], 0.38, color=_COLORS[0], label="held-out"
    )
    axes.bar(
        [p + 0.2 for p in places], [m["gold_agreement"] for m in models], 0.38, color="#cbd5e1", label="gold itself"
    )
    axes.set_xticks(list(places), [f"v{m['version']}\n{m['rankings']} rankings" for m in models])
    axes.axhline(0.5, color="#94a3b8", linestyle="--", linewidth=1)
    axes.set_ylim(0, 1.15)
    axes.legend(frameon=False, loc="upper center", ncols=2)
    return _svg(figure)


def busy_plot(
    series: Mapping[str, Sequence[tuple[float, float, float]]],
    stages: Sequence[tuple[str, float, float]],
    width_s: float,
) -> str:
    """A row per process: how dark, how busy, over the seconds of the run; the longer stages are named on top."""
    names = list(series)
    figure = Figure(figsize=(11, 0.36 * len(names) + 1.1))
    axes = figure.add_subplot()
    for row, name in enumerate(reversed(names)):
        for begin, end, share in series[name]:
            axes.barh(row, end - begin, left=begin, height=0.8, color=_COLORS[0], alpha=share, linewidth=0)
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set_xlim(0, width_s)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("seconds since the start")
    for name, begin, end in stages:
        axes.axvline(begin, color="#94a3b8", linewidth=0.8)
        if end - begin > _NAMED_SHARE * width_s:
            axes.text(begin + width_s / 300, len(names) - 0.35, name, fontsize=7, rotation=35, color="#475569")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return _svg(figure)


def _axes(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.4, 3.1))
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _svg(figure: Figure) -> str:
    """The figure as an <svg> element, its text as text."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "preceptor"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'width="100%"', text, count=1)
