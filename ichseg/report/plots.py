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
        if any(len(name) > 3 for name in boxes):  # they would run into each other
            axis.tick_params(axis="x", rotation=30)
        axis.set_ylim(0, 1)
        for style, (name, height) in zip(("--", ":"), marks.items(), strict=False):
            axis.axhline(height, color="black", linestyle=style, linewidth=1, label=name)
        _finish(axis, title, "", label)
    _save(figure, path)


def agreement_chart(
    path: str | Path, measured: Sequence[float], true: Sequence[float], limits: Mapping[str, float]
) -> None:
    """Measured against true milliliters, and their difference against their mean (Bland and Altman).

    Args:
        path: PNG to write.
        measured, true: mL per scan.
        limits: of :func:`ichseg.metrics.limits_of_agreement`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    most = max(*measured, *true) * 1.05
    left.plot([0, most], [0, most], "k:", linewidth=1)
    left.plot(true, measured, "o", color=COLORS[1], markersize=4, alpha=0.7)
    left.set_aspect("equal")
    _finish(left, f"{len(true)} scans", "true mL", "predicted mL")
    mean, difference = np.add(measured, true) / 2, np.subtract(measured, true)
    right.plot(mean, difference, "o", color=COLORS[1], markersize=4, alpha=0.7)
    for name, style in (("bias", "-"), ("lower", "--"), ("upper", "--")):
        if np.isfinite(limits[name]):
            right.axhline(limits[name], color="black", linestyle=style, linewidth=1)
            right.annotate(f"{name} {limits[name]:+.1f}", (1, limits[name]), xycoords=("axes fraction", "data"),
                           xytext=(-3, 3), textcoords="offset points", ha="right", fontsize=8)  # fmt: skip
    _finish(right, "bias and 95% limits of agreement", "mean of true and predicted, mL", "predicted minus true, mL")
    _save(figure, path)


def reliability_chart(path: str | Path, rows: Sequence[Mapping[str, float]], error: float) -> None:
    """Share of voxels that bleed against their predicted probability, and how many voxels there are.

    Args:
        path: PNG to write.
        rows: of :meth:`ichseg.metrics.Calibration.rows`.
        error: calibration error above the lowest bin.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]})
    filled = [row for row in rows if row["voxels"]]
    above.plot([0, 1], [0, 1], "k:", linewidth=1)
    above.plot([row["probability"] for row in filled], [row["observed"] for row in filled], "o-", color=COLORS[1])
    above.set_ylim(-0.02, 1.02)
    _finish(above, f"calibration error {error:.3f} (without the lowest bin)", "", "share of hemorrhage voxels")
    width = rows[0]["to"] - rows[0]["from"]
    below.bar([row["from"] for row in rows], [row["voxels"] for row in rows], width, align="edge", color=COLORS[0],
              edgecolor="white")  # fmt: skip
    below.set_yscale("log")
    _finish(below, "", "predicted probability", "voxels")
    _save(figure, path)


def history_chart(path: str | Path, histories: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """How trainings went: a small panel each, with losses on the left axis and the validation AUC on the right one.

    Args:
        path: PNG to write.
        histories: name -> rows of a ``history.csv``, with ``epoch``, ``train_loss``, and ``val_loss`` or ``val_auc``.
    """
    from matplotlib.figure import Figure

    columns = min(4, len(histories))
    rows = -(-len(histories) // columns)
    # Margins in inches: a layout engine would take seconds for many panels.
    sides, above, below = 0.65, 0.65 if columns > 1 else 0.9, 0.35
    wide, high = 3.2 * columns, 2.2 * rows + 0.5
    figure = Figure(figsize=(wide, high))
    grid = {"left": sides / wide, "right": 1 - sides / wide, "top": 1 - above / high, "bottom": below / high,
            "wspace": 0.4, "hspace": 0.4}  # fmt: skip
    axes = list(figure.subplots(rows, columns, squeeze=False, gridspec_kw=grid).flat)
    lines: dict[str, Any] = {}
    for axis, (name, history) in zip(axes, histories.items(), strict=False):
        shared = axis.twinx() if any("val_auc" in row for row in history) else None
        for place, key, color in ((axis, "train_loss", 0), (axis, "val_loss", 1), (shared, "val_auc", 2)):
            known = [row for row in history if key in row]
            if known and place is not None:
                marker = "o" if len(known) == 1 else ""
                lines[key] = place.plot([row["epoch"] for row in known], [row[key] for row in known], marker=marker,
                                        color=COLORS[color], linewidth=1.2, markersize=3)[0]  # fmt: skip
        _finish(axis, "", "", "")
        axis.set_title(name, fontsize=8, y=1.0)
        axis.tick_params(labelsize=7)
        if shared is not None:
            shared.set_ylim(0, 1)
            shared.axhline(0.5, color=COLORS[2], linewidth=0.5, linestyle=":")
            shared.spines["top"].set_visible(False)
            shared.tick_params(labelsize=7)
    for axis in axes[len(histories) :]:
        axis.set_visible(False)
    named = {
        "train_loss": "training loss",
        "val_loss": "validation loss",
        "val_auc": "AUC of validation slices (right)",
    }
    figure.legend([lines[key] for key in lines], [named[key] for key in lines], loc="upper left",
                  ncols=3 if columns > 1 else 1, fontsize=8, frameon=False)  # fmt: skip
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
