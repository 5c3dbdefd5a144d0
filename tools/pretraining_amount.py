"""How a regularizer's gain depends on the amount of pre-training: a figure, and a test whether it shrinks.

    python -m tools.pretraining_amount results/pretraining-amount

Reads the results of studies/pretraining-amount.yaml in that folder: params.yaml, metrics/, and cards/ with each
checkpoint's card (cards/bert-tiny/README.md). A card says how many tokens the checkpoint had seen; a student from
scratch has seen none. Writes gains.svg, the figure; amounts.csv, with each student's tokens, held-out loss and baseline
score; and trend.csv, see `trend`. Prints gains and trend as Markdown. If there is a README.md, they are put into it
between `<!-- amounts:begin -->` and `<!-- amounts:end -->`.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt
import pandas as pd

from kdcache.errors import KdcacheError
from kdcache.report import charts, paper
from kdcache.results.reading import Metrics, read_metrics
from kdcache.results.writing import write_table
from kdcache.statistics import power, significance, wording
from kdcache.statistics.families import correct, level
from kdcache.statistics.verdicts import points_table
from kdcache.study import Study, load_study
from kdcache.system.files import write_atomically
from stages import stage_errors
from tools.readme_results import replace_results

log = logging.getLogger(__name__)

ALL = "all"  # the mean over the regularizers
GAP = 1.3  # doublings between the least amount and where "none" stands on a logarithmic axis
DODGE = 0.14  # doublings between the regularizers of one amount
HEIGHT, WIDTHS = 300, (230, 640)  # pixels
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Amount:
    """How many tokens a student was pre-trained on, and its checkpoint's loss on held-out text (nats a token)."""

    tokens: int
    held_out_loss: float | None  # None: no pre-training


@stage_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="with params.yaml, metrics/ and cards/")
    folder = parser.parse_args(arguments).folder
    study, metrics = load_study(folder / "params.yaml"), read_metrics(folder / "metrics")
    amounts_of = amounts(study, folder / "cards")
    bases, trends = amounts_table(metrics, amounts_of), trend(metrics.trials, study, amounts_of)
    write_table(bases, folder / "amounts.csv")
    write_table(trends, folder / "trend.csv")
    charts.write_static(figure(metrics, study, amounts_of), svg=folder / "gains.svg", png=None)
    tables = f"{gains_markdown(metrics, bases)}\n\n{trend_markdown(trends)}"
    readme = folder / "README.md"
    if readme.exists():
        text = replace_results(readme.read_text(encoding="utf-8"), tables, readme, "amounts")
        write_atomically(readme, text.encode("utf-8"))
    print(tables)


def amounts(study: Study, cards: Path) -> dict[str, Amount]:
    """The students' amounts of pre-training by name, ascending.

    Raises:
        KdcacheError: the study has more than one task, no two pre-trained amounts, or checkpoints of one folder name.
        PretrainingError: a card is missing or does not say how many tokens.
    """
    # imports torch: not before the options are read
    from tools.pretraining.card import read_card, read_row

    def amount(checkpoint: str) -> Amount:
        card = read_card(cards / Path(checkpoint).name)
        return Amount(int(read_row(card, "tokens seen")), read_row(card, "held-out loss"))

    if len(study.tasks) != 1:
        raise KdcacheError(f"params.yaml: expected a study of one task, found {', '.join(study.tasks)}")
    checkpoints = {student.checkpoint for student in study.students.values() if student.init != "scratch"}
    if len({Path(checkpoint).name for checkpoint in checkpoints}) < len(checkpoints):
        raise KdcacheError(
            f"params.yaml: two checkpoints have one folder name, and so one card: {', '.join(sorted(checkpoints))}"
        )
    amounts_of = {
        name: Amount(0, None) if student.init == "scratch" else amount(student.checkpoint)
        for name, student in study.students.items()
    }
    if len({known.tokens for known in amounts_of.values() if known.tokens}) < 2:
        raise KdcacheError(
            "params.yaml: expected students after two or more amounts of pre-training, found fewer"
        )
    return dict(sorted(amounts_of.items(), key=lambda item: item[1].tokens))


def amounts_table(metrics: Metrics, amounts_of: Mapping[str, Amount]) -> pd.DataFrame:
    """One row a student: tokens, held-out loss, and the baseline's mean and sd over seeds, in points."""
    base = metrics.comparisons.drop_duplicates("student").set_index("student")
    return pd.DataFrame(
        [
            {"student": name, "tokens": known.tokens, "held_out_loss": known.held_out_loss}
            | {column: base.loc[name, column] for column in ("baseline_mean", "baseline_sd")}
            for name, known in amounts_of.items()
        ]
    )


# --- the trend --------------------------------------------------------------------------


def trend(trials: pd.DataFrame, study: Study, amounts_of: Mapping[str, Amount]) -> pd.DataFrame:
    """Does the gain over the baseline shrink? Two contrasts in points for each regularizer, and for their mean (`all`).

    `per doubling`: the slope of the gain over log2(tokens), by least squares over the pre-trained students, for each
    seed; `scratch - pretrained`: the gain from scratch minus the mean gain of the pre-trained students, for each seed.
    Mean over seeds, t interval, paired t-test (two-sided) against 0; corrected over the regularizers, `all` alone.
    `detectable`: the contrast that this test finds with 80% power. The checkpoints are taken as given. The seeds are
    those of fine-tuning, so they say nothing about another pre-training run or other validation rows.

    Raises:
        KdcacheError: a trial is missing or has no score.
    """
    methods = [name for name in study.methods() if name != study.comparison.baseline]
    gains = {name: _gains(trials, study, list(amounts_of), name) for name in methods}
    gains[ALL] = np.mean(list(gains.values()), axis=0)
    tokens = np.array([known.tokens for known in amounts_of.values()], dtype=np.float64)
    rows: list[dict[str, Any]] = []
    for contrast, weights in contrasts(tokens).items():
        of_contrast = [_tested(name, contrast, gains[name] @ weights, study) for name in gains]
        _correct(of_contrast, study)
        rows += of_contrast
    return pd.DataFrame(rows)


def contrasts(tokens: Floats) -> dict[str, Floats]:
    """Each contrast's weights [A] of a seed's gains at the amounts: for the slope, and for scratch - pretrained."""
    some = tokens > 0
    doublings = np.log2(tokens, where=some, out=np.zeros_like(tokens))
    centred = np.where(some, doublings - doublings[some].mean(), 0.0)
    weights = {"per doubling": centred / (centred**2).sum()}
    if not some.all():
        weights["scratch - pretrained"] = np.where(some, -1 / some.sum(), 1 / (~some).sum())
    return weights


def _gains(trials: pd.DataFrame, study: Study, students: list[str], method: str) -> Floats:
    """Score minus the baseline's of the same seed, in points: [seeds, students]."""
    task, base = next(iter(study.tasks)), study.comparison.baseline
    cells = points_table(trials, study)
    scores = [
        [[cells[task, student, name].get(seed, math.nan) for student in students] for seed in study.seeds]
        for name in (method, base)
    ]
    gains: Floats = np.subtract(*np.array(scores))
    for seed, student in np.argwhere(~np.isfinite(gains)):
        trial = f"{task}, {students[student]}, seed {study.seeds[seed]}"
        raise KdcacheError(
            f"metrics/trials.csv: {trial}: no score of {method} or of {base}; run `dvc repro`, and copy metrics/ again"
        )
    return gains


def _tested(name: str, contrast: str, by_seed: Floats, study: Study) -> dict[str, Any]:
    interval = significance.mean_interval(by_seed, 1 - study.comparison.alpha)
    return {
        "regularizer": name, "contrast": contrast, "seeds": by_seed.size, "estimate": interval.mean, "sd": interval.sd,
        "ci_low": interval.ci_low, "ci_high": interval.ci_high, "p": significance.paired_t(by_seed),
    }  # fmt: skip


def _correct(rows: list[dict[str, Any]], study: Study) -> None:
    """Add corrected p-values and detectable effects: the regularizers are one family, their mean another."""
    comparison = study.comparison
    for family in ([row for row in rows if row["regularizer"] != ALL], rows[-1:]):
        corrected = correct([row["p"] for row in family], comparison.correction)
        at = level(comparison.alpha, len(family), comparison.correction)
        for row, p in zip(family, corrected, strict=True):
            row |= {"p_corrected": p, "detectable": power.detectable_difference(row["seeds"], row["sd"], at)}


# --- the tables -------------------------------------------------------------------------


def gains_markdown(metrics: Metrics, bases: pd.DataFrame) -> str:
    """One line a student: tokens, held-out loss, the baseline, each regularizer's gain, interval and verdict's sign."""
    methods = list(dict.fromkeys(metrics.comparisons["regularizer"]))
    cells = {
        (
            row["student"],
            row["regularizer"],
        ): f"{_estimate(row, 'difference')} {wording.SIGNS[row['verdict']]}"
        for row in metrics.comparisons.to_dict("records")
    }
    lines = [
        [
            f"{row['tokens']:,}",
            wording.number(row["held_out_loss"], 2),
            wording.mean_sd(row["baseline_mean"], row["baseline_sd"]),
            *(cells[row["student"], method] for method in methods),
        ]
        for row in bases.to_dict("records")
    ]
    baseline = str(metrics.comparisons["baseline"].iloc[0])
    return _markdown(["tokens", "held-out loss", baseline, *methods], lines)


def trend_markdown(trends: pd.DataFrame) -> str:
    """One line a regularizer: both contrasts, each with interval, corrected p and what could have been found."""
    lines = [
        [str(name)]
        + [
            text
            for row in rows.to_dict("records")
            for text in (
                _estimate(row, "estimate"),
                wording.number(row["p_corrected"], 3),
                wording.number(row["detectable"], 2),
            )
        ]
        for name, rows in trends.groupby("regularizer", sort=False)
    ]
    header = [
        text for contrast in trends["contrast"].unique() for text in (contrast, "p corrected", "detectable")
    ]
    return _markdown(["gain", *header], lines)


def _estimate(row: Mapping[Any, Any], column: str) -> str:
    return f"{wording.signed(row[column])} {wording.interval(row['ci_low'], row['ci_high'])}"


def _markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join(f"| {' | '.join(map(paper.escape_markdown, line))} |" for line in (header, rule, *lines))


# --- the figure -------------------------------------------------------------------------


def figure(metrics: Metrics, study: Study, amounts_of: Mapping[str, Amount]) -> dict[str, Any]:
    """The baseline's score against tokens, and beside it what each regularizer gains, as Vega-Lite."""
    positions = _positions(amounts_of)
    x = _x(amounts_of, positions)
    metric = next(iter(study.tasks.values())).metrics[0]
    base = _base(
        amounts_table(metrics, amounts_of), positions, x, f"{study.comparison.baseline}: {metric}, points"
    )
    gains = _gained(metrics.comparisons, study, positions, x)
    chart = alt.hconcat(base, gains, spacing=40).resolve_scale(color="independent", shape="independent")
    # Unchecked against Vega-Lite's schema: the check is slow, and the tests make it.
    spec: dict[str, Any] = chart.properties(padding=18).to_dict(validate=False)
    spec.pop("config", None)
    title = {
        "text": f"{next(iter(study.tasks))}: gain over {study.comparison.baseline} by amount of pre-training",
        "subtitle": f"means over {len(study.seeds)} seeds; left ± standard deviation, right with "
        f"{1 - study.comparison.alpha:.0%} interval; hollow: inconclusive; "
        "shaded: within the margin of equivalence",
    }
    return spec | {"title": title | {"fontSize": 16, "offset": 14}}


def _positions(amounts_of: Mapping[str, Amount]) -> dict[str, float]:
    """Where each student stands on the axis: at log2 of its tokens, and `GAP` before the first without any."""
    least = min(known.tokens for known in amounts_of.values() if known.tokens)
    return {
        name: math.log2(known.tokens or least) - (0 if known.tokens else GAP)
        for name, known in amounts_of.items()
    }


def _x(amounts_of: Mapping[str, Amount], positions: Mapping[str, float]) -> alt.X:
    ends = min(positions.values()) - 0.6, max(positions.values()) + 0.6
    none = sorted({positions[name] for name, known in amounts_of.items() if not known.tokens})
    axis = alt.Axis(
        values=sorted(set(positions.values())),
        labelExpr=f"indexof({none}, datum.value) >= 0 ? 'none' : format(pow(2, datum.value), '.2~s')",
        grid=False,
        labelOverlap=False,
    )
    scale = alt.Scale(domain=list(ends), nice=False, zero=False)
    return alt.X("place:Q", title="tokens of pre-training", scale=scale, axis=axis)


def _base(table: pd.DataFrame, positions: Mapping[str, float], x: alt.X, title: str) -> alt.LayerChart:
    mean, sd = table["baseline_mean"], table["baseline_sd"]
    shown = table[["student", "tokens"]].assign(mean=mean, low=mean - sd, high=mean + sd)
    values = [
        {"place": positions[row["student"]], "some": row["tokens"] > 0}
        | {name: row[name] for name in ("mean", "low", "high")}
        for row in shown.to_dict("records")
    ]
    colour = charts.METHOD_COLOURS[0]
    scale = alt.Scale(zero=False, padding=8)
    base = alt.Chart(alt.InlineData(values=values)).encode(x=x)
    y = alt.Y("mean:Q", title=title, scale=scale, axis=alt.Axis(grid=False))
    line = base.transform_filter("datum.some").mark_line(color=colour, strokeWidth=1.5).encode(y=y)
    rule = base.mark_rule(color=colour, strokeWidth=2).encode(y=alt.Y("low:Q", scale=scale), y2="high:Q")
    points = base.mark_point(color=colour, filled=True, size=60, opacity=1).encode(y=y)
    return alt.LayerChart(layer=[line, rule, points], width=WIDTHS[0], height=HEIGHT)


def _gained(
    comparisons: pd.DataFrame, study: Study, positions: Mapping[str, float], x: alt.X
) -> alt.LayerChart:
    methods = [name for name in study.methods() if name != study.comparison.baseline]
    shift = {name: DODGE * (index - (len(methods) - 1) / 2) for index, name in enumerate(methods)}
    values = [
        {"place": positions[row["student"]] + shift[row["regularizer"]], "some": row["init"] != "scratch"}
        | {name: row[name] for name in ("regularizer", "difference", "ci_low", "ci_high", "verdict")}
        for row in comparisons.to_dict("records")
    ]
    colours, shapes = charts.method_scales(methods, first=1)
    legend = alt.Legend(orient="top", title=None, symbolFillColor="white", symbolOpacity=1)
    colour = alt.Color("regularizer:N", scale=colours, legend=legend)
    base = alt.Chart(alt.InlineData(values=values)).encode(x=x, color=colour)
    sign = "datum.value > 0 ? '+' + datum.label : datum.label"
    gain = alt.Y(
        "difference:Q",
        title="points gained over the baseline",
        axis=alt.Axis(grid=False, labelExpr=sign),
    )
    lines = base.transform_filter("datum.some").mark_line(strokeWidth=1, opacity=0.6).encode(y=gain)
    rules = base.mark_rule(strokeWidth=2).encode(y="ci_low:Q", y2="ci_high:Q")
    shape = alt.Shape("regularizer:N", scale=shapes, legend=legend)
    placed = base.encode(y=gain, shape=shape)
    disc = placed.mark_point(style="disc", filled=True, size=75, opacity=1).encode(color=alt.value("white"))
    hollow = alt.condition("datum.verdict === 'inconclusive'", alt.value(0), alt.value(1))
    points = placed.mark_point(size=65, strokeWidth=1.8, opacity=1).encode(
        fill=alt.Fill("regularizer:N", scale=colours, legend=None), fillOpacity=hollow
    )
    layers = [*_margin(float(comparisons["margin"].max())), lines, rules, disc, points]
    return alt.LayerChart(layer=layers, width=WIDTHS[1], height=HEIGHT)


def _margin(margin: float) -> list[alt.Chart]:
    band = alt.Chart(alt.InlineData(values=[{"low": -margin, "high": margin, "zero": 0.0}]))
    return [
        band.mark_rect(style="margin").encode(y="low:Q", y2="high:Q"),
        band.mark_rule(style="zero").encode(y="zero:Q"),
    ]


if __name__ == "__main__":
    main()
