import json
import re
from html.parser import HTMLParser
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from assay.dashboard import Report, RuleLine, TaggerLine, Totals, as_html, as_json, as_text
from assay.dashboard.charts import value_ticks
from assay.dashboard.markup import tag, visible
from assay.schemas.composition import Composition
from assay.schemas.statistics import TagColumn, shard_statistics

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></title><svg onload=alert(1)>",
    "abc\u202egnp.exe",
    "bell\x07 \x1b[31mred\x1b]8;;http://x.example\x07 \x9b2J",
    "zero\u200bwidth\ufeff\u2066",
    "[bold red]markup[/bold red] [link=http://x.example]x[/link]",
    "javascript:alert(1)",
    "line\nbreak\r\n\u2028",
    "{{ 7 * 7 }}",
]
COLUMNS = (
    TagColumn(name="quality", axis="quality", kind="score"),
    TagColumn(name="toxicity", axis="safety", kind="score"),
    TagColumn(name="domain", axis="domain", kind="label"),
    TagColumn(name="language", axis="language", kind="label"),
    TagColumn(name="register", axis="custom", kind="label"),
)
UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


class Page(HTMLParser):
    """What a browser would see: every element with its attributes, and all text outside the style sheet."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, element: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((element, dict(attrs)))
        if element != "meta":
            self.open.append(element)

    def handle_endtag(self, element: str) -> None:
        assert self.open.pop() == element

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)


def composition(labels: list[str | None], copies: int = 3) -> Composition:
    rows = [
        {"n_tokens": 7 * i + 1, "quality": (i % 11) / 10, "toxicity": (i % 7) / 7 if i % 5 else None, "domain": label,
         "language": label, "register": label}
        for i, label in enumerate(labels * copies)
    ]  # fmt: skip
    schema = pa.schema(
        [("n_tokens", pa.int32()), ("quality", pa.float32()), ("toxicity", pa.float32())]
        + [(name, pa.string()) for name in ("domain", "language", "register")]
    )
    return Composition.of(shard_statistics(pa.Table.from_pylist(rows, schema), COLUMNS), COLUMNS)


def report(labels: list[str | None], **changes: Any) -> Report:
    kept, dropped = composition(labels), composition(labels, copies=1)
    words = [label or "-" for label in labels]
    values: dict[str, Any] = {
        "title": words[0],
        "subject": " ".join(words),
        "corpus": words[-1],
        "fingerprints": {word: word for word in words},
        "taggers": tuple(TaggerLine(name=w, axis=w, kind="score", version=w, held_out={w: 0.9}, note=w) for w in words),
        "totals": Totals(
            rows_in=kept.documents + dropped.documents + 2,
            rows_kept=kept.documents,
            rows_dropped=dropped.documents,
            rows_quarantined=2,
            tokens=kept.tokens,
        ),
        "quarantine_reasons": {words[0]: 1, words[-1] + "!": 1},
        "composition": kept,
        "dropped": dropped,
        "rules": (
            RuleLine(name=words[0], dropped=dropped.documents, tokens=5, failed=7),
            RuleLine(name="x", dropped=0),
        ),
        "throughput": words[0],
        "notes": tuple(words),
    }
    return Report(**{**values, **changes})


def test_hostile_labels_stay_inert_on_the_page() -> None:
    source = as_html(report([*HOSTILE, None]))
    page = Page(source)
    assert not page.open
    names = {name for name, _ in page.elements}
    assert not names & {
        "script",
        "a",
        "img",
        "iframe",
        "link",
        "object",
        "form",
        "base",
        "image",
        "use",
        "foreignobject",
    }
    assert "<script" not in source.lower()
    attributes = [(key, value) for _, attrs in page.elements for key, value in attrs.items()]
    assert not [key for key, _ in attributes if key.startswith("on") or key in {"href", "src", "xlink:href", "action"}]
    assert not [
        value for key, value in attributes if key == "style" and not re.fullmatch(r"[-a-z]+:[\d.]+%?", value or "")
    ]
    assert not UNSEEN.search(source)
    assert "<script>alert(1)</script>" in "".join(page.text)


def test_nothing_is_fetched_and_the_policy_comes_first() -> None:
    source = as_html(report(["code", None]))
    policy = source.index("Content-Security-Policy")
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in source.replace("&#x27;", "'")
    assert policy < source.index("<style>") < source.index("<body>")
    assert not re.search(r"url\(|@import|https?:", source)


def test_hostile_labels_stay_inert_in_a_terminal() -> None:
    text = as_text(report([*HOSTILE, None]), width=100)
    assert not UNSEEN.search(text)
    assert "[bold red]markup[/bold red]" in text
    assert "⟨U+202E⟩" in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_text_keeps_within_its_width(width: int) -> None:
    text = as_text(report(["code", "news", "a rather long name of a domain", None]), width=width)
    assert max(map(len, text.splitlines())) <= width


def test_the_numbers_of_the_page_are_those_of_the_statistics() -> None:
    made = report(["code", "news", "code", "law", None])
    text = [part.strip() for part in Page(as_html(made)).text]
    for share in (*made.composition.domains, *made.composition.languages):
        label = share.label or "undecided"
        rows = [text[i + 1 : i + 5] for i, part in enumerate(text) if part == label]
        docs, tokens = 100 * share.docs / made.composition.documents, 100 * share.tokens / made.composition.tokens
        shown = [f"{share.docs:,}", f"{docs:.1f} %", f"{share.tokens:,}", f"{tokens:.1f} %"]
        assert shown in rows, (shown, rows)
    for score in made.composition.scores:
        cells = [f"{n:,}" for n in score.docs if n]
        assert all(cell in text for cell in cells)
    for row in made.composition.by_domain:
        assert any(f"{n} of {row.decided}" in as_html(made) for n in row.docs if n)


def test_the_accounting_is_shown() -> None:
    made = report(["code", "news"])
    text = "".join(Page(as_html(made)).text)
    assert "10 rows read = 6 kept + 2 dropped + 2 quarantined" in text
    assert "10 rows = 6 kept + 2 dropped + 2 quarantined" in as_text(made)


def test_json_round_trips_and_is_stable() -> None:
    made = report([*HOSTILE, None])
    text = as_json(made)
    assert Report.model_validate_json(text) == made
    assert as_json(Report.model_validate_json(text)) == text
    assert text.isascii()
    assert list(json.loads(text)) == sorted(json.loads(text))


def test_equal_reports_give_equal_pages() -> None:
    assert as_html(report(["code", None])) == as_html(report(["code", None]))


def test_rows_that_do_not_reconcile_are_refused() -> None:
    with pytest.raises(ValidationError, match="10 in, 9 kept"):
        Totals(rows_in=10, rows_kept=9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quarantine_reasons": {"null_text": 1}}, "quarantine reasons sum to 1, not 2"),
        ({"rules": (RuleLine(name="x", dropped=1),)}, "drops by rule sum to 1, not 2"),
        ({"composition": composition(["code"])}, "documents of the composition sum to 3, not 6"),
        ({"dropped": composition(["code"])}, "documents of the dropped sum to 3, not 2"),
    ],
)
def test_parts_that_do_not_reconcile_with_the_totals_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        report(["code", "news"], **changes)


def test_a_report_of_nothing_is_still_drawn() -> None:
    empty = composition([])
    made = Report(title="t", subject="s", corpus="c", totals=Totals(rows_in=0, rows_kept=0), composition=empty)
    assert "0 rows read" in "".join(Page(as_html(made)).text)
    assert "0 rows" in as_text(made)


def test_more_labels_than_fit_are_drawn_as_one_row() -> None:
    text = "".join(Page(as_html(report([f"d{i:02d}" for i in range(40)]))).text)
    assert "16 others" in text
    assert "d39" in text


@pytest.mark.parametrize("top", [1, 2, 3, 7, 10, 99, 100, 12345, 10**9])
@pytest.mark.parametrize("root", [False, True])
def test_axis_ticks_are_few_and_within_the_axis(top: int, root: bool) -> None:
    ticks = value_ticks(top, root)
    assert ticks[0] == 0
    assert 2 <= len(ticks) <= 6
    assert max(ticks) <= top


def test_joiners_stay_where_scripts_need_them() -> None:
    assert visible("👩\u200d👩\u200d👧 می\u200cخواهم") == "👩\u200d👩\u200d👧 می\u200cخواهم"
    assert visible("pay\u200dpal") == "pay⟨U+200D⟩pal"


def test_strings_can_only_enter_markup_as_text_or_quoted_values() -> None:
    assert tag("b", "<&>\"'", title='" onclick="x').source == (
        '<b title="&quot; onclick=&quot;x">&lt;&amp;&gt;&quot;&#x27;</b>'
    )
