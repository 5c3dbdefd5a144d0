"""The section on tuning: the chosen settings, the expected best score of n settings, and how flat the optimum is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, ClassVar

import altair as alt

from kdcache.report.charts import Drawing, method_scales, specification
from kdcache.report.sections import Drawn, draw
from kdcache.results.reading import Metrics, rows_of
from kdcache.results.schema import TuningRow
from kdcache.statistics import wording
from kdcache.statistics.expected_best import expected_best
from kdcache.study import Study
from kdcache.study.metrics import unit_of
from kdcache.study.tuning import Tuning

HEIGHT = 220  # pixels
# The smallest possible values: if such a value is chosen, being the last in its list means nothing.
LEAST = {"epochs": 1, "batch_size": 1, "weight_decay": 0, "warmup": 0, "beta": 0}
MOST = {"alpha": 1}


@dataclass(frozen=True)
class Configuration:
    """The settings of one configuration, in the order of trying; each score is a mean over seeds.

    Scores are in the metric's unit.
    """

    task: str
    model: str
    regularizer: str
    teacher: bool  # a teacher's settings
    metric: str
    scores: list[float]
    values: list[str]
    chosen: int

    @property
    def lower(self) -> bool:
        return unit_of(self.metric).sign < 0

    @property
    def digits(self) -> int:
        return 3 if self.lower else 1

    @property
    def best(self) -> float:
        return self.scores[self.chosen]

    @property
    def expected(self) -> list[float]:
        return expected_best(self.scores, self.lower)


@dataclass(frozen=True)
class TuningLine:
    """A configuration's tuning in words."""

    model: str
    regularizer: str
    metric: str
    values: str
    best: str
    median_gap: str
    near: str
    expected: list[str]


@dataclass(frozen=True)
class TuningSection:
    template: ClassVar[str] = "sections/tuning.html.j2"
    design: str
    rows: list[list[TuningLine]]
    tasks: list[str]
    steps: list[int]
    warnings: list[str]
    methods: bool  # methods are tuned
    teachers: bool  # teachers are tuned
    charts: list[Drawn]

    @property
    def drawn(self) -> Sequence[Drawn]:
        return self.charts


def make_section(metrics: Metrics, study: Study) -> TuningSection | None:
    """The section; None for a study without tuning."""
    if study.tuning is None or metrics.tuning.empty:
        return None
    tuned = configurations(metrics)
    tasks = list(dict.fromkeys(configuration.task for configuration in tuned))
    steps = _steps(max(len(configuration.scores) for configuration in tuned))
    return TuningSection(
        design=_design(study.tuning),
        rows=[
            [_line(configuration, study, steps) for configuration in tuned if configuration.task == task]
            for task in tasks
        ],
        tasks=tasks,
        steps=steps,
        warnings=warnings(tuned, study.tuning),
        methods=bool(study.tuning.space),
        teachers=any(configuration.teacher for configuration in tuned),
        charts=draw(
            "tuning", diagrams([configuration for configuration in tuned if not configuration.teacher])
        ),
    )


def configurations(metrics: Metrics) -> list[Configuration]:
    """What was tried of each configuration."""
    groups: dict[tuple[str, str, str, bool], list[TuningRow]] = {}
    for row in rows_of(TuningRow, metrics.tuning):
        groups.setdefault((row.task, row.model, row.regularizer, row.role == "teacher"), []).append(row)
    return [_configuration(name, rows) for name, rows in groups.items()]


def _configuration(name: tuple[str, str, str, bool], rows: list[TuningRow]) -> Configuration:
    settings: dict[int, list[TuningRow]] = {}
    for row in rows:
        settings.setdefault(row.setting, []).append(row)
    scale = unit_of(rows[0].metric).size
    scores = [
        scale * fmean(row.score for row in of_setting if row.score is not None)
        for of_setting in settings.values()
    ]
    chosen = next(place for place, of_setting in enumerate(settings.values()) if of_setting[0].chosen)
    return Configuration(
        *name, rows[0].metric, scores, [of_setting[0].values for of_setting in settings.values()], chosen
    )


def _design(tuning: Tuning) -> str:
    seeds = wording.count(len(tuning.seeds), "seed")
    held = wording.number(100 * tuning.hold_out, 0)
    return f"{wording.count(tuning.budget, 'setting')} of {seeds} each, scored on {held}% of train, held out"


def _who(configuration: Configuration) -> str:
    return f"teacher {configuration.model}" if configuration.teacher else configuration.model


def _steps(settings: int) -> list[int]:
    """The numbers of settings after which the expected best is shown: 1, 2, 4, ... and all."""
    return [*(n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if n < settings), settings]


def _line(configuration: Configuration, study: Study, steps: list[int]) -> TuningLine:
    digits = configuration.digits
    margin = _margin(study, configuration.metric)
    behind = sorted(abs(configuration.best - score) for score in configuration.scores)
    near = sum(gap <= margin for gap in behind)
    return TuningLine(
        model=_who(configuration),
        regularizer=wording.NONE if configuration.teacher else configuration.regularizer,
        metric=wording.metric(configuration.metric),
        values=configuration.values[configuration.chosen],
        best=wording.number(configuration.best, digits),
        median_gap=wording.number(median(behind), digits),
        near=f"{near} of {len(behind)}" if margin else wording.NONE,
        expected=[
            wording.number(configuration.expected[n - 1], digits) if n <= len(behind) else "" for n in steps
        ],
    )


def _margin(study: Study, metric: str) -> float:
    """The margin in the metric's unit; 0 if none is declared."""
    return next((size for name, size in study.comparison.margin.items() if name == metric), 0.0)


def warnings(tuned: Sequence[Configuration], tuning: Tuning) -> list[str]:
    """A sentence for every chosen value that is at the edge of its list."""
    return [said for configuration in tuned for said in _edges(configuration, tuning)]


def _edges(configuration: Configuration, tuning: Tuning) -> Iterator[str]:
    chosen = dict(
        part.rsplit(" ", 1) for part in configuration.values[configuration.chosen].split(", ") if " " in part
    )
    of_teachers = tuning.of_teachers(configuration.regularizer) if configuration.teacher else None
    name = wording.configuration(configuration.task, _who(configuration))
    name = name if configuration.teacher else f"{name}, {configuration.regularizer}"
    for key, values in (of_teachers or tuning).values(configuration.regularizer).items():
        value = float(chosen.get(key, "nan"))
        for end, limit, word in (
            (min(values), LEAST.get(key), "smallest"),
            (max(values), MOST.get(key), "largest"),
        ):
            if len(values) > 1 and f"{end:g}" == f"{value:g}" and end != limit:
                yield (
                    f"{name}: the chosen {key} {value:g} is the {word} that was to be tried; "
                    f"a {'smaller' if word == 'smallest' else 'larger'} one may be better."
                )


def diagrams(tuned: Sequence[Configuration]) -> list[Drawing]:
    """One chart per task and student: the expected best score against the number of settings, a line a method."""
    groups: dict[tuple[str, str], list[Configuration]] = {}
    for configuration in tuned:
        groups.setdefault((configuration.task, configuration.model), []).append(configuration)
    return [_diagram(wording.configuration(*name), of_one) for name, of_one in groups.items()]


def _from_one_to_all(tuned: Configuration) -> str:
    first, last = (wording.number(tuned.expected[place], tuned.digits) for place in (0, -1))
    return f"{tuned.regularizer} from {first} with one setting to {last} with {len(tuned.scores)}"


def _diagram(title: str, tuned: list[Configuration]) -> Drawing:
    said = "; ".join(map(_from_one_to_all, tuned))
    spec = specification(_chart(tuned), HEIGHT)
    return Drawing(title, spec, f"{title}. Expected best {wording.metric(tuned[0].metric)}: {said}.")


def _chart(tuned: list[Configuration]) -> alt.LayerChart:
    methods = [configuration.regularizer for configuration in tuned]
    colours, shapes = method_scales(methods)
    legend = alt.Legend(orient="top", title=None, columns=3, symbolOpacity=1)
    integer_axis = alt.Axis(grid=False, tickMinStep=1, format="d")
    title = f"expected best {wording.metric(tuned[0].metric)}"
    shared = alt.Chart().encode(
        x=alt.X(
            "settings:Q", title="settings tried", axis=integer_axis, scale=alt.Scale(nice=False, padding=8)
        ),
        y=alt.Y("score:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(grid=False)),
        color=alt.Color("regularizer:N", scale=colours, legend=legend, sort=methods),
    )
    tooltip = [alt.Tooltip(f"{name}:N") for name in ("regularizer", "settings", "score")]
    points = shared.mark_point(filled=True, size=40, opacity=1).encode(
        shape=alt.Shape("regularizer:N", scale=shapes, legend=legend, sort=methods), tooltip=tooltip
    )
    layers = [shared.mark_line(strokeWidth=1.5, aria=False), points]
    return alt.LayerChart(data=alt.InlineData(values=_records(tuned)), layer=layers)


def _records(tuned: list[Configuration]) -> list[dict[str, Any]]:
    return [
        {"regularizer": configuration.regularizer, "settings": n, "score": float(f"{score:.5g}")}
        for configuration in tuned
        for n, score in enumerate(configuration.expected, start=1)
    ]
