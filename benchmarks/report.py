"""The record of a run as a page for people."""

from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks.measure import spread
from benchmarks.record import Record
from benchmarks.rivals import OURS, RIVALS, VARIANTS

_NOTABLE = 0.1


def page(record: Record) -> str:
    """The whole run in Markdown."""
    return "\n".join(_page(record))


def _page(record: Record) -> Iterator[str]:
    machine, cells = record["machine"], record["cells"]
    yield f"# Runtime benchmark, {record['device']}, {record['date']}"
    yield ""
    yield f"`{record['command']}`"
    yield ""
    processor = f"{machine['cpu']}, {machine['cores']} cores ({' '.join(machine['cpu_flags'])})"
    yield f"- machine: {machine.get('gpu', 'no GPU used')}; {processor}, {machine['threads']} threads used"
    yield f"- versions: {', '.join(f'{name} {number}' for name, number in record['versions'].items())}"
    loads = f"{record['load_before']:.1f} before, {record['load_after']:.1f} after"
    yield f"- {record['minutes']:.1f} minutes; load average of the machine: {loads}"
    yield from (f"- not measured: {skipped['place']} ({skipped['reason']})" for skipped in record["skipped"])
    if not cells:
        return
    yield ""
    yield "## How many times faster"
    yield ""
    yield (
        f"Seconds of the rival over seconds of this runtime on the same documents, {cells[0]['dtype']}: the median of "
        "the repetitions (least-most). Below 1, the rival is faster. Of the floor: the share that ours reaches of the "
        "speed at which this machine could do the least arithmetic in this dtype; work in int8 can take it past 100 %."
    )
    yield ""
    names = [name for name in RIVALS if any(name in cell["results"] for cell in cells)]
    yield from _table(
        ["shape", "hooked", "d_sae", "documents", "sample", "ours, tokens/s", "of the floor", *names],
        [
            [
                *_place(cell),
                "{documents} docs, {tokens:,} tok, {runs} runs".format(
                    **cell["sample"], runs=len(cell["results"][OURS]["seconds"])
                ),
                f"{cell['results'][OURS]['tokens_per_second']:,.0f}",
                f"{cell['floor']['share_reached_by_ours']:.0%}",
                *(_ratio(cell["results"].get(name)) for name in names),
            ]
            for cell in cells
        ],
    )
    yield ""
    yield from (f"- **{name}**: {RIVALS[name].what}" for name in names)
    yield ""
    yield from _summary(cells, names)
    yield from _variants(cells)
    yield from _memory(cells, names)
    yield from _rates(record["rates"])
    yield from _loading(record.get("loading") or {})


def _summary(cells: Sequence[Record], names: Sequence[str]) -> Iterator[str]:
    yield "## Over all cells"
    yield ""
    rows, lost = [], []
    for name in names:
        ratios = [(cell["results"].get(name) or {}).get("ratio_to_ours") for cell in cells]
        measured = [(ratio, cell) for ratio, cell in zip(ratios, cells, strict=True) if ratio]
        if not measured:
            rows.append([name, "not measured", "", "", ""])
            continue
        worst, at = min(measured, key=lambda pair: pair[0]["median"])
        medians = [ratio["median"] for ratio, _ in measured]
        rows.append(
            [name, f"{worst['median']:.2f}", f"{median(medians):.2f}", f"{max(medians):.2f}", " ".join(_place(at))]
        )
        lost += [(ratio, name, cell) for ratio, cell in measured if ratio["least"] < 1]
    yield from _table(["rival", "lowest", "median", "highest", "the lowest is at"], rows)
    yield ""
    behind = sorted((pair for pair in lost if pair[0]["median"] < 1), key=lambda pair: pair[0]["median"])
    unclear = sorted((pair for pair in lost if pair[0]["median"] >= 1), key=lambda pair: pair[0]["median"])
    for heading, pairs in (
        ("Where ours is slower than a rival:", behind),
        ("Where ours is faster by the median, but slower in at least one repetition:", unclear),
    ):
        yield f"{heading}{'' if pairs else ' nowhere.'}"
        yield ""
        if pairs:
            yield from (f"- {' '.join(_place(cell))}: {name} {_spread(ratio)}" for ratio, name, cell in pairs)
            yield ""
    problems = sorted(
        {
            f"- {name}: {result['problem']} ({' '.join(_place(cell))})"
            for cell in cells
            for name, result in cell["results"].items()
            if result["problem"] and result.get("seconds") is not None
        }
    )
    if problems:
        yield "Rivals that were run but must not be compared:"
        yield ""
        yield from problems
        yield ""


def _variants(cells: Sequence[Record]) -> Iterator[str]:
    """Lines for variants of ours: `auto` whenever it was run, pruning where it makes a difference."""
    rows = []
    for cell in cells:
        for name in VARIANTS:
            result = cell["results"].get(name)
            if name == OURS or not result or not result.get("seconds"):
                continue
            times = spread(
                [
                    plain / variant
                    for plain, variant in zip(cell["results"][OURS]["seconds"], result["seconds"], strict=False)
                ]
            )
            if name == "ours-auto":
                differing = result["agreement_with_reference"]["differing"]
                note = (
                    f"computes in {result['chosen_dtype']}; {differing:.2%} of the features differ from {cell['dtype']}"
                )
            elif abs(times.median - 1) > _NOTABLE and (times.least > 1 or times.most < 1):
                note = VARIANTS[name].what
            else:
                continue
            rows.append([*_place(cell), name, _spread(times._asdict()), note])
    if rows:
        yield "## Variants of ours"
        yield ""
        yield "Times faster than ours as above. Another precision is another result: it enters no ratio above."
        yield ""
        yield from _table(["shape", "hooked", "d_sae", "documents", "variant", "times", "note"], rows)
        yield ""


def _memory(cells: Sequence[Record], names: Sequence[str]) -> Iterator[str]:
    yield "## Peak memory and padding"
    yield ""
    yield "MiB above what the process (on a GPU: its allocator) held before the call; padded tokens over real ones."
    yield ""
    yield from _table(
        ["shape", "hooked", "d_sae", "documents", OURS, *names],
        [[*_place(cell), *(_peak(cell["results"].get(name)) for name in (OURS, *names))] for cell in cells],
    )
    yield ""


def _rates(rates: Sequence[Record]) -> Iterator[str]:
    yield "## What the machine can do"
    yield ""
    yield from _table(
        ["shape", "d_sae", "dtype", "backbone product, GFLOP/s", "SAE product, GFLOP/s", "memory, GB/s"],
        [
            [
                r["shape"],
                f"{r['d_sae']:,}",
                r["dtype"],
                *(f"{r[key] / 1e9:,.0f}" for key in ("backbone", "sae", "memory")),
            ]
            for r in rates
        ],
    )
    yield ""


def _loading(loading: Record) -> Iterator[str]:
    if not loading:
        return
    yield "## Loading"
    yield ""
    yield (
        f"Each worker is a process: {loading['shape']}, {loading['hooked']} hooked, d_sae {loading['d_sae']:,}. "
        "Seconds from the start of the process to its first features; MiB of each worker while one, two and three of "
        "them hold the same scope."
    )
    yield ""
    rows = []
    for loader, result in loading["loaders"].items():
        if "problem" in result:
            rows.append([loader, f"not measured: {result['problem']}", *[""] * 6])
            continue
        later = result["later_starts"]
        means = [
            {key: sum(w[key] for w in workers) / len(workers) for key in workers[0]} for workers in result["memory"]
        ]
        rows.append(
            [
                loader,
                f"{result['first_start']['first_features']:.1f}",
                _seconds([start["first_features"] for start in later]),
                _seconds([start["imported"] for start in later]),
                _seconds([start["first_features"] - start["imported"] for start in later]),
                f"{max(start['peak_rss'] for start in later) / 2**20:,.0f}",
                " / ".join(f"{mean['pss'] / 2**20:,.0f}" for mean in means),
                f"{means[-1]['uss'] / 2**20:,.0f}",
            ]
        )
    yield from _table(
        [
            "loader",
            "first start",
            "later starts",
            "of it imports",
            "of it the rest",
            "peak RSS",
            "PSS, 1/2/3 workers",
            "USS",
        ],
        rows,
    )
    yield ""


def _place(cell: Record) -> list[str]:
    return [cell["shape"], cell["hooked"], f"{cell['d_sae']:,}", cell["documents"]]


def _ratio(result: Record | None) -> str:
    if result is None:
        return "not measured"
    if result.get("ratio_to_ours"):
        if len(result["seconds"]) == 1:
            return f"{result['ratio_to_ours']['median']:.2f} (one run)"
        return _spread(result["ratio_to_ours"])
    return "no ratio" if result.get("seconds") is not None else "not measured"


def _spread(ratio: Record) -> str:
    return f"{ratio['median']:.2f} ({ratio['least']:.2f}-{ratio['most']:.2f})"


def _seconds(values: Sequence[float]) -> str:
    return f"{median(values):.1f}"


def _peak(result: Record | None) -> str:
    if not result or not result.get("seconds") or result["peak_bytes_above_rest"] is None:
        return ""
    padding = result["padded_to_real"]
    return f"{result['peak_bytes_above_rest'] / 2**20:,.0f}" + (f" (x{padding:.2f})" if padding else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
