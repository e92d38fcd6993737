"""Dot-and-interval plots and curves: SVG that stretches, with every word and number in HTML beside it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from assay.dashboard import numbers
from assay.dashboard.charts import Tick, line, svg, x_label
from assay.dashboard.markup import Child, Html, join, tag

_STEPS = (1.0, 2.0, 5.0)


@dataclass(frozen=True)
class Axis:
    """A scale from `low` to `high` with labelled ticks; values beyond its ends are drawn at them."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def at(self, value: float) -> float:
        """The value's place in [0, 1]."""
        low, high, value = (math.log(max(v, 1e-12)) if self.log else v for v in (self.low, self.high, value))
        return min(max((value - low) / (high - low), 0.0), 1.0)


@dataclass(frozen=True)
class Interval:
    """One row of an interval plot; `style` is ours, rival, part or warn. Without a value it is a row of words."""

    name: Child
    cells: tuple[Child, ...]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    style: str = "ours"


@dataclass(frozen=True)
class Point:
    """A point of a curve, with its interval where it has one."""

    x: float
    y: float
    title: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Curve:
    """Points joined in order; `style` is ours, rival or quiet. Only a curve with dots can be pointed at."""

    points: tuple[Point, ...]
    style: str = "ours"
    dots: bool = True


def linear_axis(values: Iterable[float], floor: float = -math.inf, ceiling: float = math.inf, steps: int = 5) -> Axis:
    """An axis that holds the values between round ends, none beyond `floor` and `ceiling`, in `steps` or so."""
    known = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = max(min(known), floor), min(max(known), ceiling)
    if high - low < 1e-9:
        low, high = max(low - 0.05, floor), min(high + 0.05, ceiling)
    power = 10.0 ** math.floor(math.log10(high - low))
    step = next(s * power / 10 for s in (*_STEPS, 10.0, 20.0, 50.0, 100.0) if (high - low) / (s * power / 10) <= steps)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = tuple((i * step, f"{i * step + 0.0:.{decimals}f}") for i in range(first, last + 1))
    ticks = tuple(t for t in ticks if floor - 1e-9 <= t[0] <= ceiling + 1e-9)
    return Axis(max(first * step, floor), min(last * step, ceiling), ticks)


def log_axis(values: Iterable[float]) -> Axis:
    """A logarithmic axis over positive values, which ends near them; ticks at 1, 2 and 5 of each ten, or tens alone."""
    known = [v for v in values if v > 0] or [1.0]
    low, high = min(known) / 1.15, max(known) * 1.15
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [s * 10.0**p for p in powers for s in _STEPS if low <= s * 10.0**p <= high]
    ticks = [v for v in fine if len(fine) <= 10 or round(math.log10(v), 6).is_integer()] or fine
    return Axis(low, high, tuple((v, numbers.tick(round(v)) if v >= 1 else f"{v:g}") for v in ticks), log=True)


def interval_table(head: Sequence[str], rows: Sequence[Interval], axis: Axis, mark: float | None = None) -> Html:
    """Rows of a name, a dot on its interval and the numbers of both; `mark` is a dotted line through all of them.

    `head` names the first column and then those of the cells. The numbers stand in each row, so that the drawing is
    hidden from screen readers.
    """
    top = [tag("th", head[0], scope="col"), tag("td", class_="wide"), *(tag("th", h, scope="col") for h in head[1:])]
    body = []
    for row in rows:
        strip = tag("td", _strip(row, axis, mark), class_="wide", aria_hidden="true")
        cells = [tag("td", cell) for cell in row.cells]
        body.append(tag("tr", tag("th", row.name, scope="row"), strip, *cells))
    labels = tag("div", *(x_label(Tick(axis.at(v), text)) for v, text in axis.ticks), class_="x")
    foot = tag("tr", tag("td"), tag("td", labels, class_="wide"), *(tag("td") for _ in head[1:]), aria_hidden="true")
    parts = (tag("thead", tag("tr", *top)), tag("tbody", *body), tag("tfoot", foot))
    return tag("table", *parts, class_="dots")


def curve_plot(
    curves: Sequence[Curve], x: Axis, y: Axis, *, title: str, described: str, x_name: str, y_name: str, diagonal: bool
) -> Html:
    """Curves over two axes, as one image with a name and a description for screen readers."""
    lines: list[Child] = [line(0, 100, 100 * (1 - y.at(v)), 100 * (1 - y.at(v)), "grid") for v, _ in y.ticks]
    if diagonal:
        lines.append(line(100 * x.at(0), 100 * x.at(1), 100 * (1 - y.at(0)), 100 * (1 - y.at(1)), "mark"))
    for curve in sorted(curves, key=lambda c: c.style != "quiet"):
        places = [(100 * x.at(p.x), 100 * (1 - y.at(p.y))) for p in curve.points]
        path = " ".join(f"{a:.2f},{b:.2f}" for a, b in places)
        lines.append(tag("polyline", points=path, class_=f"path {curve.style}", vector_effect="non-scaling-stroke"))
        for p, (a, b) in zip(curve.points, places, strict=True):
            whisker = None
            if p.low is not None and p.high is not None:
                ends = (100 * (1 - y.at(p.low)), 100 * (1 - y.at(p.high)))
                whisker = line(a, a, *ends, f"range {curve.style}")
            if curve.dots:
                lines.append(tag("g", tag("title", p.title), whisker, *_dot(a, b, curve.style)))
    drawn = tag(
        "svg", tag("title", title), tag("desc", described), join(*lines), class_="plot", viewBox="0 0 100 100",
        preserveAspectRatio="none", role="img", aria_label=f"{title}. {described}",
    )  # fmt: skip
    y_labels = [tag("span", text, style=f"bottom:{100 * y.at(v):.2f}%") for v, text in y.ticks]
    return tag(
        "div",
        tag("div", *y_labels, class_="y", aria_hidden="true"),
        tag("div", drawn, class_="area"),
        tag("div", *(x_label(Tick(x.at(v), text)) for v, text in x.ticks), class_="x", aria_hidden="true"),
        tag("div", f"{y_name} by {x_name}", class_="axis"),
        class_="histogram curve",
    )


def weight_bar(weight: float, largest: float) -> Html:
    """A bar to the right of the middle for a positive weight, to the left for a negative one."""
    width = 50 * min(abs(weight) / largest, 1.0) if largest else 0.0
    style, x = ("fill", 50.0) if weight >= 0 else ("extra", 50.0 - width)
    shapes = [tag("rect", class_=style, x=x, y=1, width=width, height=8), line(50, 50, 0, 10, "zero")]
    return svg("bar", 10, shapes)


def _strip(row: Interval, axis: Axis, mark: float | None) -> Html:
    shapes: list[Child] = [line(100 * axis.at(v), 100 * axis.at(v), 0, 20, "grid") for v, _ in axis.ticks]
    if mark is not None:
        shapes.append(line(100 * axis.at(mark), 100 * axis.at(mark), 0, 20, "mark"))
    if row.low is not None and row.high is not None:
        shapes.append(line(100 * axis.at(row.low), 100 * axis.at(row.high), 10, 10, f"range {row.style}"))
    if row.value is not None:
        shapes += _dot(100 * axis.at(row.value), 10, row.style)
    return svg("strip", 20, shapes)


def _dot(x: float, y: float, style: str) -> list[Html]:
    """A round dot whatever the stretch: a line without length, with round ends. A rival's is hollow."""
    core = [line(x, x, y, y, "core")] if style == "rival" else []
    return [line(x, x, y, y, f"point {style}"), *core]
