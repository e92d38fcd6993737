"""Numbers as a reader wants them: three significant digits, the exact value kept for the tooltip."""

MISSING = "–"


def count(n: int) -> str:
    """A count: exact below 10,000, else three significant digits with K, M, B or T."""
    if abs(n) < 10_000:
        return f"{n:,}"
    value = float(n)
    for suffix in ("K", "M", "B"):
        value /= 1000
        if abs(value) < 999.5:
            return f"{_three(value)}{suffix}"
    return f"{_three(value / 1000)}T"


def tick(n: int) -> str:
    """A round number for an axis, without zeros after the point."""
    for power, suffix in ((12, "T"), (9, "B"), (6, "M"), (3, "K")):
        if n >= 10**power:
            return f"{n / 10**power:g}{suffix}"
    return str(n)


def exact(n: int) -> str:
    """A count with every digit."""
    return f"{n:,}"


def percent(part: float, whole: float) -> str:
    """A share in percent with at most two decimals; "–" of nothing."""
    if not whole:
        return MISSING
    share = 100 * part / whole
    if 0 < share < 0.01:
        return "<0.01 %"
    if 99.95 <= share < 100:
        return ">99.9 %"
    return f"{_three(share)} %" if share else "0 %"


def score(value: float | None) -> str:
    """A score or a figure in [0, 1] with three decimals; "–" for none."""
    return MISSING if value is None else f"{value:.3f}"


def plural(n: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count(n)} {noun}" if n == 1 else f"{count(n)} {noun}s"


def _three(value: float) -> str:
    size = abs(value)
    if size >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"
