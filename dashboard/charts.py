"""Charts drawn as inline SVG that stretches, with every word in HTML beside it so that text keeps its size."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from assay.dashboard import numbers
from assay.dashboard.markup import Child, Html, join, tag

PLOT_HEIGHT = 100.0


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram, from `left` to `right` in [0, 1] of the axis; `value` lies under `extra`."""

    left: float
    right: float
    value: int
    extra: int
    title: str


@dataclass(frozen=True)
class Tick:
    """A labelled place in [0, 1] of an axis."""

    at: float
    label: str


def stacked_bar(parts: Sequence[tuple[str, float]], start: float = 0.0) -> Html:
    """A bar whose parts are (style class, share of the full width), drawn one after the other from `start`."""
    drawn: list[Child] = []
    for style, share in parts:
        if share > 0:
            drawn.append(tag("rect", class_=style, x=100 * start, y=0, width=100 * share, height=10))
        start += share
    track = tag("rect", class_="track", x=0, y=0, width=100, height=10)
    return svg("bar", 10, [track, *drawn])


def histogram(
    bars: Sequence[Bar], ticks: Sequence[Tick], *, label: str, root: bool = False, marks: Sequence[float] = ()
) -> Html:
    """Bars over an axis with labelled ticks; `root` draws heights on a square-root scale. `marks` are dotted lines."""
    top = max((bar.value + bar.extra for bar in bars), default=0)

    def height(value: float) -> float:
        share = value / top if top else 0.0
        return PLOT_HEIGHT * (math.sqrt(share) if root else share)

    levels = value_ticks(top, root)
    drawn: list[Child] = [line(0, 100, PLOT_HEIGHT - height(v), PLOT_HEIGHT - height(v), "grid") for v in levels]
    drawn += [_histogram_bar(bar, height) for bar in bars]
    drawn += [line(100 * at, 100 * at, 0, PLOT_HEIGHT, "mark") for at in marks]
    y_labels = [tag("span", numbers.tick(v), style=f"bottom:{height(v):.2f}%") for v in levels]
    return tag(
        "div",
        tag("div", *y_labels, class_="y", aria_hidden="true"),
        tag("div", svg("plot", PLOT_HEIGHT, drawn, label), class_="area"),
        tag("div", *(x_label(tick) for tick in ticks), class_="x", aria_hidden="true"),
        class_="histogram",
    )


def quantile_strip(quantiles: dict[str, float]) -> Html | None:
    """A line from the 5th to the 95th percentile, thick between the quartiles, cut at the median; None without any."""
    if not quantiles:
        return None
    p05, p25, p50, p75, p95 = (100 * quantiles[name] for name in ("p05", "p25", "p50", "p75", "p95"))
    shapes = [
        tag("rect", class_="whisker", x=p05, y=4.25, width=max(p95 - p05, 0.2), height=1.5),
        tag("rect", class_="box", x=p25, y=2, width=max(p75 - p25, 0.2), height=6),
        tag("rect", class_="median", x=p50 - 0.25, y=0, width=0.5, height=10),
    ]
    return tag("div", svg("strip", 10, shapes), class_="under")


def value_ticks(top: int, root: bool) -> list[int]:
    """Round whole numbers up to `top`, some three of them, spaced so that their labels stay apart."""
    if top < 1:
        return []
    if not root:
        step = next(s for s in _round_numbers() if s * 4.5 >= top)
        return list(range(0, top + 1, step))
    chosen = [0]
    for value in _round_numbers():
        if value > top:
            break
        if math.sqrt(value / top) - math.sqrt(chosen[-1] / top) >= 0.22:
            chosen.append(value)
    return chosen


def numbers_table(head: Sequence[str], rows: Sequence[Sequence[Child]], title: str = "The numbers") -> Html:
    """The numbers of a chart, folded away under it; the first column names the row."""
    top = tag("tr", *(tag("th", name, scope="col") for name in head))
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    table = tag("table", tag("thead", top), tag("tbody", *body), class_="numbers")
    return tag("details", tag("summary", title), tag("div", table, class_="scroll"))


def amount(n: int) -> Html:
    """A count in three digits, with all of them in its title."""
    shown = numbers.count(n)
    return tag("span", shown, title=numbers.exact(n) if shown != numbers.exact(n) else None)


def _histogram_bar(bar: Bar, height: Callable[[float], float]) -> Html:
    gap = min(0.12, 50 * (bar.right - bar.left) * 0.12)
    x, width = 100 * bar.left + gap, max(100 * (bar.right - bar.left) - 2 * gap, 0.05)
    low, high = height(bar.value), height(bar.value + bar.extra)
    shapes: list[Child] = [tag("title", bar.title)]
    if bar.extra:
        shapes.append(tag("rect", class_="extra", x=x, y=PLOT_HEIGHT - high, width=width, height=high - low))
    if bar.value:
        shapes.append(tag("rect", class_="fill", x=x, y=PLOT_HEIGHT - low, width=width, height=low))
    shapes.append(tag("rect", class_="hit", x=100 * bar.left, y=0, width=width, height=PLOT_HEIGHT))
    return tag("g", *shapes)


def x_label(tick: Tick) -> Html:
    """A tick's label below an axis, kept within its ends."""
    edge = "first" if tick.at < 0.02 else "last" if tick.at > 0.98 else None
    return tag("span", tick.label, class_=edge, style=f"left:{100 * tick.at:.2f}%")


def line(x1: float, x2: float, y1: float, y2: float, style: str) -> Html:
    """A line that is as wide however its drawing is stretched."""
    return tag("line", x1=x1, x2=x2, y1=y1, y2=y2, class_=style, vector_effect="non-scaling-stroke")


def svg(style: str, height: float, shapes: Sequence[Child], label: str | None = None) -> Html:
    """A drawing of 100 by `height` that fills its place; without a label it is hidden from screen readers."""
    return tag(
        "svg",
        join(*shapes),
        class_=style,
        viewBox=f"0 0 100 {height:g}",
        preserveAspectRatio="none",
        role="img" if label else None,
        aria_label=label,
        aria_hidden=None if label else "true",
    )


def _round_numbers() -> Iterator[int]:
    for power in itertools.count():
        yield from (10**power, 2 * 10**power, 5 * 10**power)
