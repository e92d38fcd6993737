"""docs/embedded-model.md, written from kept figures alone, and its plot."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results/embedded-model.json"
PAGE = ROOT / "docs/embedded-model.md"
PLOT = ROOT / "docs/embedded-model-training.svg"

Record = dict[str, Any]


def write_page() -> None:
    """Leaves the page and its plot in docs/."""
    training = training_record()
    PAGE.write_text(render(json.loads(RESULTS.read_text("utf-8")), training, default_taggers()), "utf-8")
    _plot(training)


def training_record() -> Record:
    """What the build measured."""
    return json.loads((files("assay.sae_runtime") / "embedded/training.json").read_text("utf-8"))


def default_taggers() -> list[Record]:
    """The taggers that ship, by name."""
    folder = Path(str(files("assay.configs") / "taggers/embedded"))
    return [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]


def render(results: Record, training: Record, taggers: list[Record]) -> str:
    """The page as Markdown."""
    sections = [
        _introduction(training),
        _language_model(training),
        _saes(training),
        _tasks(results),
        _taggers(taggers),
        _features(results),
        _limits(results, training),
        _again(results),
    ]
    return "\n\n".join(sections) + "\n"


def _introduction(training: Record) -> str:
    run, config = training["pretraining"], training["pretraining"]["config"]
    return f"""# The embedded model

Assay carries a small language model of its own, so that everything runs without a GPU or a hub, on features that mean
something: a `Qwen3ForCausalLM` of {run["parameters"] / 1e6:.1f} M parameters ({config["layers"]} layers of width \
{config["d_model"]}), trained on {run["tokens"] / 1e6:.1f} M tokens of
real text, with TopK SAEs in Qwen-Scope's layout after layers {_and(training["saes"]["layers"])}. Its
[card](../sae_runtime/embedded/README.md) lists texts, licences and hyper-parameters; here is what it learnt. It is no
substitute for a Qwen model: see the [limits](#limits)."""


def _language_model(training: Record) -> str:
    metrics, ngram = training["metrics"], training["metrics"]["byte_ngram_bits_per_byte"]
    rows = [
        [name.replace("_", " "), f"{row['bits_per_byte']:.3f}", f"{ngram[name]:.3f}", f"{row['nats_per_token']:.3f}"]
        for name, row in metrics["language_model"].items()
    ]
    curve = training["pretraining"]["heldout_curve_step_tokens_nats"]
    before, last = curve[-2], curve[-1]
    return f"""## Language model

Held-out documents, beside a {ngram["order"]}-gram model of bytes (Witten-Bell) that counted \
{ngram["training_bytes"] / 1e6:.0f} MB of the same training text.

{_table(["text", "bits/byte", "n-gram bits/byte", "nats/token"], rows)}

![Loss of the language model and unexplained variance of the SAEs while they were trained](embedded-model-training.svg)

Over the last {(last[1] - before[1]) / 1e6:.2f} M tokens of its training the held-out loss went from {before[2]:.3f} to
{last[2]:.3f} nats a token: the learning rate had come down to nearly nothing, not the model to its limit. More tokens
would lower it further."""


def _saes(training: Record) -> str:
    rows = [
        [
            name.removeprefix("layer"),
            f"{row['fvu']:.3f}",
            f"{row['l0']:.1f}",
            f"{row['silent_share']:.1%}",
            f"{row['ce_recovered']:.3f}",
        ]
        for name, row in training["metrics"]["saes"].items()
    ]
    config = training["build"]["sae"]
    return f"""## SAEs

{config["d_sae"]:,} features each, k = {config["k"]}; the recipe of Gao et al. 2024 with AuxK at 1/32.
Held-out text: the share of the variance that is not explained (FVU), active features a token (L0),
features that fired on none of the tokens, and how much of the cross-entropy is recovered
when the reconstruction takes the layer's place.

{_table(["layer", "FVU", "L0", "silent", "CE recovered"], rows)}"""


def _tasks(results: Record) -> str:
    ways = list(next(iter(results["tasks"].values()))["ways"])
    rows = []
    for task in results["tasks"].values():
        binary = "auroc" in task["ways"][ways[0]]
        for key, measure in (("auroc", "AUROC"), ("f1", "F1")) if binary else (("macro_f1", "macro-F1"),):
            values = [task["ways"][way][key] for way in ways]
            shown = [f"**{v:.3f}**" if v == max(values) else f"{v:.3f}" for v in values]
            rows.append([task["title"], measure, *shown, f"{task['texts']['test']:,}"])
    lines = []
    for task in results["tasks"].values():
        ours, control = (
            max(_headline(task["ways"][way]) for way in ways if pick(way))
            for pick in (lambda way: way in ("SAE features", "dense probe"), lambda way: way.startswith("random"))
        )
        lines.append(f"{task['title']} {ours - control:+.3f}")
    return f"""## What the features tell, and what plain methods do

Logistic regressions on discovery texts, every setting chosen on validation texts, figures on test texts: on all SAE
features of the hooked layers (largest activation), on the mean residual of the best hooked layer, on TF-IDF (words or
characters), and the first two again on the same architecture with the weights it would start from, with random
directions for SAEs. All read the first {results["tokens_read"]} tokens of a text; the
texts are those of lowest hash in their sets, so that fewer train here than train the default taggers.

{_table(["task", "measure", *ways, "test texts"], rows)}

Trained over random weights, the better of the two ways each: {"; ".join(lines)}.{_within(results)}"""


def _headline(way: Record) -> float:
    """AUROC of a yes/no task, else macro-F1."""
    return way["auroc"] if "auroc" in way else way["macro_f1"]


def _within(results: Record) -> str:
    parts = []
    for task in results["tasks"].values():
        within = task["ways"]["SAE features"].get("auroc_within")
        if within:
            parts.append(
                ", ".join(f"{source.removeprefix('sentences-')} {value:.3f}" for source, value in within.items())
            )
    return f" Within one language, SAE features reach an AUROC of: {'; '.join(parts)}." if parts else ""


def _taggers(taggers: list[Record]) -> str:
    rows = []
    for tagger in taggers:
        ours, rival = tagger["evidence"]["test"], tagger["evidence"]["baselines"]["tfidf_logistic"]
        key, measure = ("macro_f1", "macro-F1") if "macro_f1" in ours else ("auroc", "AUROC")
        rows.append(
            [
                f"`{tagger['name']}`",
                measure,
                f"{ours[key]['value']:.3f} ({ours[key]['low']:.3f} to {ours[key]['high']:.3f})",
                f"{rival[key]['value']:.3f}",
                str(len(tagger["features"])),
                f"{tagger['fitted_on']['documents']['test']:,}",
            ]
        )
    return f"""## The default taggers

They read fewer features, so that a tag can be explained, and whole test texts. Their files hold the rest of the
evidence.

{_table(["tagger", "measure", "held out (95 % interval)", "TF-IDF", "features", "test texts"], rows)}"""


def _features(results: Record) -> str:
    rows = []
    for one in results["features"]:
        contexts = "<br>".join(_code(text) for text in one["contexts"]) or "–"
        rows.append(
            [
                f"{one['layer']}:{one['feature']}",
                f"{one['kind']}: {one['label']}",
                f"{one['fires_on_label']:.0%} / {one['fires_on_others']:.0%}",
                " ".join(_code(token) for token in one["tokens"]),
                contexts,
            ]
        )
    return f"""## A dozen features

The rule: for every label of the tasks above and of the language set, the feature with the largest
Delta = P(fires | label) - P(fires | another label) on discovery texts (equation 14 of the
[Qwen-Scope report](https://arxiv.org/abs/2605.11887)); of these, for each kind of label, those with the
largest Delta on test texts. Shares are of test texts on which the feature fires at all. Tokens are its
strongest in the labelled texts (abusive ones are masked); contexts are where it
fires most in the documents that ship with the demo.

{_table(["feature", "label", "fires: label / others", "strongest tokens", "in context"], rows)}"""


def _limits(results: Record, training: Record) -> str:
    rivals = {
        task["title"]: _headline(task["ways"]["TF-IDF"])
        - max(_headline(task["ways"][way]) for way in ("SAE features", "dense probe"))
        for task in results["tasks"].values()
    }
    wins = [f"{title} by {lead:.3f}" for title, lead in rivals.items() if lead > 0]
    verdict = f"**TF-IDF is better** at {'; '.join(wins)}." if wins else "TF-IDF is better at none of the tasks."
    minutes, tokens = training["pretraining"]["minutes"], training["pretraining"]["tokens"]
    return f"""## Limits

- {verdict} A model of this size is here to run and test the pipeline, not to curate a real corpus.
- {minutes:g} minutes on two CPU threads, {tokens / 1e6:.1f} M tokens: it knows words, spelling, layout,
  language and some of the topic. It knows no facts, no irony and no context beyond some sentences.
- It saw windows of {training["pretraining"]["config"]["context"]} tokens.
- Languages beside English come from manuals, fortunes and one declaration, and its features lean to
  those kinds of text.
- Abuse is known from tweets of one place and year and from templated sentences."""


def _again(results: Record) -> str:
    return f"""## Again

The figures are of {results["date"]}, kept in `benchmarks/results/embedded-model.json`:

```bash
python -m assay.sae_runtime.training --work WORK --labelled DATA --out OUT --compile   # builds model, SAEs and card
make fit DATA=...                                                                      # fits the default taggers
{results["command"]}   # measures, and writes this page
```

DATA is a folder with the labelled sets, which are not part of this repository. `--quick` builds something tiny within
minutes, to see that the build works. The build resumes where it stopped."""


def _code(text: str) -> str:
    """Corpus text as inert inline code in a table cell: no markup, no line breaks, no control characters."""
    visible = "".join(c if c.isprintable() else " " for c in text.replace("`", "'").replace("|", "¦"))
    return f"`{' '.join(visible.split())}`"


def _and(items: list[Any]) -> str:
    *most, last = map(str, items)
    return f"{', '.join(most)} and {last}" if most else last


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plot(training: Record) -> None:
    """Loss over tokens, and FVU over steps, as an SVG that is the same each time."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "embedded"
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    run = training["pretraining"]
    for key, label in (("loss_curve_step_tokens_nats", "training"), ("heldout_curve_step_tokens_nats", "held out")):
        left.plot([row[1] / 1e6 for row in run[key]], [row[2] for row in run[key]], label=label)
    left.set(xlabel="million tokens", ylabel="nats a token", title="language model")
    left.legend()
    for layer in training["saes"]["layers"]:
        curve = training["saes"][f"layer{layer}"]["curve_step_fvu_dead"]
        right.plot([row[0] for row in curve], [row[1] for row in curve], label=f"layer {layer}")
    right.set(xlabel="steps", ylabel="FVU", yscale="log", title="SAEs")
    right.legend()
    figure.savefig(PLOT, metadata={"Date": None})
