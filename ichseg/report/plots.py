"""Charts as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ichseg.io import atomic_path

COLORS = ("#8c8c8c", "#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#8c564b")


def bar_chart(
    path: str | Path,
    groups: Sequence[str],
    panels: Sequence[tuple[str, Mapping[str, Sequence[float]], Mapping[str, Sequence[float]]]],
    label: str,
) -> None:
    """Groups of bars, one panel above the other; where there is no number, there is no bar.

    Args:
        path: PNG to write.
        groups: names under the groups.
        panels: (title, series name -> one value per group, name -> height of a dashed line over each group).
        label: of the vertical axis.
    """
    figure, axes = _panels(len(panels))
    for axis, (title, series, marks) in zip(axes, panels, strict=True):
        width = 0.8 / len(series)
        for number, (name, values) in enumerate(series.items()):
            at = np.arange(len(groups)) + (number - (len(series) - 1) / 2) * width
            axis.bar(at, values, width, label=name, color=COLORS[number % len(COLORS)])
        for style, (name, heights) in zip(("--", ":"), marks.items(), strict=False):
            for group, height in enumerate(heights):
                shown = name if group == 0 else None
                axis.plot([group - 0.5, group + 0.5], [height, height], "k", linestyle=style, linewidth=1, label=shown)
        axis.set_xticks(range(len(groups)), groups)
        _finish(axis, title, "", label)
    _save(figure, path)


def horizontal_chart(
    path: str | Path, panels: Sequence[tuple[str, Sequence[str], Mapping[str, Sequence[float]]]]
) -> None:
    """Bars of shares from left to right, one group per label, for labels too long to stand under a bar.

    Args:
        path: PNG to write.
        panels: (title, labels, series name -> one value per label).
    """
    from matplotlib.figure import Figure

    rows = [max(len(labels), 1) for _, labels, _ in panels]
    figure = Figure(figsize=(9, 0.45 * sum(rows) + 1.2 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": rows})[:, 0]
    for axis, (title, labels, series) in zip(axes, panels, strict=True):
        height = 0.8 / len(series)
        for number, (name, values) in enumerate(series.items()):
            at = np.arange(len(labels)) + (number - (len(series) - 1) / 2) * height
            axis.barh(at, values, height, label=name, color=COLORS[(number + 1) % len(COLORS)])
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
        axis.invert_yaxis()
        axis.set_xlim(0, 1)
        _finish(axis, title, "", "")
        axis.grid(axis="y", visible=False)
        axis.grid(axis="x", alpha=0.3)
    _save(figure, path)


def line_chart(
    path: str | Path,
    panels: Sequence[tuple[str, Mapping[str, tuple[Sequence[float], Sequence[float]]], Mapping[str, float]]],
    labels: tuple[str, str],
) -> None:
    """Curves, one panel above the other, with a dot at every tenth along the horizontal axis.

    Args:
        path: PNG to write.
        panels: (title, curve name -> (x, y), name -> height of a dashed line).
        labels: of the two axes.
    """
    figure, axes = _panels(len(panels))
    for axis, (title, curves, marks) in zip(axes, panels, strict=True):
        for number, (name, (x, y)) in enumerate(curves.items()):
            color = COLORS[(number + 1) % len(COLORS)]
            axis.plot(x, y, label=name, color=color)
            dotted = [i for i, v in enumerate(x) if abs(10 * v - round(10 * v)) < 1e-3]
            axis.plot([x[i] for i in dotted], [y[i] for i in dotted], "o", color=color, markersize=4)
        for style, (name, height) in zip(("--", ":"), marks.items(), strict=False):
            axis.axhline(height, color="black", linestyle=style, linewidth=1, label=name)
        _finish(axis, title, *labels)
    _save(figure, path)


def box_chart(
    path: str | Path, panels: Sequence[tuple[str, Mapping[str, Sequence[float]], Mapping[str, float]]], label: str
) -> None:
    """Boxes of shares (quartiles; whiskers to 1.5 times their distance; triangle: mean), one panel above the other.

    Args:
        path: PNG to write.
        panels: (title, name -> values, name -> height of a dashed line).
        label: of the vertical axis.
    """
    figure, axes = _panels(len(panels))
    for axis, (title, boxes, marks) in zip(axes, panels, strict=True):
        axis.boxplot(list(boxes.values()), tick_labels=list(boxes), showmeans=True)
        axis.set_ylim(0, 1)
        for style, (name, height) in zip(("--", ":"), marks.items(), strict=False):
            axis.axhline(height, color="black", linestyle=style, linewidth=1, label=name)
        _finish(axis, title, "", label)
    _save(figure, path)


def _panels(rows: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display needed

    figure = Figure(figsize=(8, 4 * rows), layout="constrained")
    return figure, list(figure.subplots(rows, 1, squeeze=False).flat)


def _finish(axis: Any, title: str, x: str, y: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(axis="y", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _save(figure: Any, path: str | Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
