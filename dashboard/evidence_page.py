"""A tagger's evidence as one HTML file: no script, nothing fetched, every value escaped."""

from collections.abc import Iterator, Mapping
from typing import Any

from assay.dashboard import numbers
from assay.dashboard.evidence_charts import (
    calibration_chart,
    candidates_chart,
    figures_chart,
    labels_chart,
    learning_chart,
    prevalence_chart,
    slices_chart,
)
from assay.dashboard.evidence_features import features_chart
from assay.dashboard.evidence_words import (
    calibration_error,
    evidence_of,
    in_words,
    layers_words,
    learning_words,
    measure,
    prevalence_words,
    rule_words,
    saturation_words,
    share,
    spread,
    threshold_words,
    value,
    verdict,
)
from assay.dashboard.markup import Child, Html, data, join, tag
from assay.dashboard.shell import facts, key_figures, page, section
from assay.schemas.evidence import Evidence
from assay.schemas.tagger import Tagger

STYLES = ("report.css", "plots.css")


def evidence_page(tagger: Tagger) -> str:
    """One self-contained page; equal taggers give equal bytes. AssayError for a tagger without evidence."""
    evidence = evidence_of(tagger)
    main = [_header(tagger, evidence), *_sections(tagger, evidence)]
    return page(f"Evidence of the tagger {tagger.name}", main, _footer(tagger), STYLES)


def _header(tagger: Tagger, evidence: Evidence) -> Html:
    lost = evidence.winner is not None
    said = verdict(evidence)
    more = tag("small", data(evidence.summary, 600)) if evidence.summary else None
    return tag(
        "header",
        tag("p", f"Assay · the evidence of a tagger · {tagger.axis}", class_="kicker"),
        tag("h1", tagger.name),
        tag("p", data(tagger.description, 600), class_="lede"),
        tag("p", data(said, 600), more, class_="verdict lost" if lost else "verdict"),
        key_figures(_key_figures(tagger, evidence)),
    )


def _key_figures(tagger: Tagger, evidence: Evidence) -> list[tuple[str, Child, Child]]:
    mine = evidence.test[evidence.headline]
    figures: list[tuple[str, Child, Child]] = [(measure(evidence.headline), value(mine), spread(mine))]
    rivals = {n: f[evidence.headline] for n, f in evidence.baselines.items() if evidence.headline in f}
    if rivals:
        best = (min if evidence.headline == "mae" else max)(rivals, key=lambda n: rivals[n].value)
        figures.append(("best baseline", value(rivals[best]), data(in_words(best), 40)))
    if evidence.prevalence:
        rarest = min(evidence.prevalence, key=lambda p: p.prevalence)
        name = f"precision where {share(rarest.prevalence)} are positive"
        figures.append((name, value(rarest.precision), spread(rarest.precision)))
    if tagger.rule == "dense":
        figures.append(("layers of a dense probe", f"{len(tagger.dense)}", "no features to read"))
    else:
        where = layers_words(f.layer for f in tagger.features)
        figures.append(("features", f"{len(tagger.features)}", f"of {where}"))
    if tagger.kind == "score":
        figures.append(("threshold", f"{tagger.threshold:g}", data(tagger.threshold_rule, 80)))
    return figures


def _sections(tagger: Tagger, evidence: Evidence) -> Iterator[Html]:
    text = "On test documents that took no part in fitting or choosing. Bars are 95 % intervals; baselines are hollow."
    yield section("Figures", text, figures_chart(evidence))
    if evidence.labels:
        yield section("Labels", "F1 of each label on test documents, the worst first.", labels_chart(evidence))
    if evidence.prevalence:
        rarest = min(evidence.prevalence, key=lambda p: p.prevalence)
        text = f"A balanced test flatters precision: {prevalence_words(rarest.prevalence, rarest.precision.value)}."
        yield section("Rare positives", text, prevalence_chart(evidence.prevalence))
    if evidence.slices:
        text = "Where it holds and where not. The dotted line is the figure over all test documents."
        yield section("Slices", text, slices_chart(evidence))
    error = calibration_error(evidence)
    if error is not None:
        text = f"On the diagonal a score is a probability. Predicted and observed are {error:.3f} apart on average."
        yield section("Calibration", text, calibration_chart(evidence))
    if evidence.learning_curve:
        yield section("Learning curve", learning_words(evidence), learning_chart(evidence))
    if evidence.candidates:
        text = f"{numbers.plural(len(evidence.candidates), 'setting')} tried; one is chosen, on validation documents."
        words = saturation_words(evidence)
        said = tag("p", words, class_="said") if words else None
        yield section("Candidates", text, join(said, candidates_chart(evidence)))
    if tagger.features:
        text = "A weight is the most that a feature can add to the logit. Tokens are of the fitting data."
        yield section("Features", text, features_chart(tagger))
    yield section("The rule", "What decides the tag, and where it came from.", _rule(tagger))


def _rule(tagger: Tagger) -> Html:
    rows = [
        ("rule", rule_words(tagger)),
        ("threshold", threshold_words(tagger)),
        ("method", tagger.method),
        ("labels", ", ".join(tagger.labels)),
        ("bias", ", ".join(f"{b:g}" for b in tagger.bias)),
        ("link", tagger.link),
    ]
    if tagger.unit:
        rows.append(("unit", f"a score of 0 stands for {tagger.unit[0]:g}, of 1 for {tagger.unit[1]:g}"))
    rows += _flat(tagger.fitted_on, "fitted on")
    cells = [tag("tr", tag("th", data(k, 60), scope="row"), tag("td", data(v, 600))) for k, v in rows]
    return tag("table", tag("tbody", *cells), class_="plain words")


def _flat(record: Mapping[str, Any], name: str) -> Iterator[tuple[str, str]]:
    """A nested record as lines: its keys joined, its lists with commas."""
    for key, content in record.items():
        spelled = f"{name} · {in_words(str(key))}"
        if isinstance(content, Mapping):
            yield from _flat(content, spelled)
        else:
            yield spelled, ", ".join(map(str, content)) if isinstance(content, list | tuple) else str(content)


def _footer(tagger: Tagger) -> Html:
    entries = [
        ("tagger", f"{tagger.name} {tagger.version}"),
        ("fingerprint", tagger.fingerprint),
        ("encoder", tagger.encoder),
        ("format", tagger.format),
    ]
    note = "Intervals are bootstrapped over groups of documents. A tagger meets another encoder: an error."
    return tag("footer", facts(entries), tag("p", note))
