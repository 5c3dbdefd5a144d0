"""Print answers for people: tables as wide as the terminal, or 160 columns wide in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from kdcache.logits import LogitCache

CLASSES = 8  # up to this many classes, the logits are shown
TOP = 3  # how many probabilities are shown
TEXT = 80  # how many characters of a row's text are shown
CLASS_ROWS = 30  # how many classes the table by class has
LEFT = ("text", "text_pair", "label", "image")  # columns that are not numbers
NAMES = {
    "entropy": "entropy (nats)",
    "only_a": "rows only in a",
    "only_b": "rows only in b",
    "kl_a_b": "KL(a||b) (nats)",
    "kl_b_a": "KL(b||a) (nats)",
}
ELSEWHERE = ("predictions", "agreement", "labels")  # shown in other tables


def print_info(facts: Mapping[str, Any]) -> None:
    """Print `LogitCache.info()`, one fact per line."""
    table = Table("key", "value", show_header=False)
    for key, value in facts.items():
        table.add_row(cell(key.replace("_", " ")), cell(_text(value), lines=True))
    show(table)


def print_heads(cache: LogitCache, splits: Mapping[str, list[dict[str, Any]]], with_task: bool) -> None:
    """Print the first rows of each split: the task's columns (without a task, the logits) and the top probabilities."""
    for split, rows in splits.items():
        if with_task:
            show(_task_head(cache, split, rows))
        else:
            show(_logit_head(cache, split, rows))


def _logit_head(cache: LogitCache, split: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    classes = cache.manifest.classes
    shown = min(classes, CLASSES)
    more = f", {shown} of {classes} classes" if shown < classes else ""
    names = cache.manifest.label_names or [f"logit_{k}" for k in range(classes)]
    view = [] if cache.views is None else ["view"]
    table = _head_table(cache, split, more, ["id", "row hash", *view, *names[:shown]], names)
    for row in rows:
        cells = [str(row["id"]), row["row_hash"], *(str(row[key]) for key in view)]
        cells += [f"{value:.4f}" for value in row["logits"][:shown]]
        table.add_row(*cells, *_top(row, names))
    return table


def _task_head(cache: LogitCache, split: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    known = [
        key for key in (rows[0] if rows else {}) if key not in ("id", "row_hash", "logits", "probabilities")
    ]
    names = cache.manifest.label_names or [str(k) for k in range(cache.manifest.classes)]
    output = ["output"] if cache.manifest.classes == 1 else []
    table = _head_table(cache, split, "", ["id", *known, *output], names)
    for row in rows:
        cells = [cell(_shortened(_number(row[key]))) for key in (*known, *(["logits"] if output else []))]
        table.add_row(str(row["id"]), *cells, *_top(row, names))
    return table


def _head_table(
    cache: LogitCache, split: str, more: str, columns: Iterable[str], names: Sequence[str]
) -> Table:
    table = Table(title=cell(f"{split}: {cache.manifest.splits[split].rows} rows{more}"))
    for column in columns:
        table.add_column(cell(column), justify="left" if column in LEFT else "right")
    if len(names) > 1:
        table.add_column("top probabilities")
    return table


def _top(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """One cell with the largest probabilities; no cell for a regression."""
    values = row.get("probabilities", [])
    best = sorted(range(len(values)), key=lambda k: -values[k])[:TOP]
    return [cell(", ".join(f"{names[k]} {values[k]:.1%}" for k in best))] if best else []


def print_stats(cache: LogitCache, splits: Sequence[Mapping[str, Any]]) -> None:
    """Print `analysis.stats` with a column for each split, then the numbers by class."""
    columns = {item["split"]: {**_flat(item), **_flat(item.get("labels", {}))} for item in splits}
    show(_columns(columns))
    if "predictions" in splits[0]:
        show(_by_class(cache.manifest.classes, splits))


def _by_class(classes: int, splits: Sequence[Mapping[str, Any]]) -> Table:
    more = f", {CLASS_ROWS} of {classes} (--json has all)" if classes > CLASS_ROWS else ""
    table = Table("class", title=f"by class{more}")
    for item in splits:
        table.add_column(cell(f"{item['split']}: predicted"), justify="right")
        if "labels" in item:
            table.add_column(cell(f"{item['split']}: agreement"), justify="right")
    for name in list(splits[0]["predictions"])[:CLASS_ROWS]:
        cells = []
        for item in splits:
            cells.append(_number(item["predictions"][name]))
            if "labels" in item:
                cells.append(_number(item["labels"]["agreement"][name]))
        table.add_row(cell(name), *cells)
    return table


def print_diffs(a: str, b: str, splits: Sequence[Mapping[str, Any]]) -> None:
    """Print `analysis.diff` with a column for each split, then the rows that differ most.

    Of token caches only the columns: their rows have no KL, and `tokens.print_largest` prints them.
    """
    show(f"a: {cell(a)}\nb: {cell(b)}")
    show(_columns({item["split"]: _flat(item) for item in splits}))
    for item in splits:
        if any(row.get("kl", 0) > 0 for row in item.get("largest", [])):
            show(_largest(item))


def _largest(item: Mapping[str, Any]) -> Table:
    table = Table(
        "id", "KL(a||b)", "a predicts", "b predicts", title=cell(f"{item['split']}: where they differ most")
    )
    for row in item["largest"]:
        table.add_row(str(row["id"]), _number(row["kl"]), cell(row["a"]), cell(row["b"]))
    return table


def print_store(content: Mapping[str, Any]) -> None:
    """Print `cli.keeping.stored` with a line for each kind."""
    table = Table("kind", title=cell(f"{content['folder']}, at most {decimal(content['limit_bytes'])}"))
    for head in ("entries", "size"):
        table.add_column(head, justify="right")
    for kind, facts in content["kinds"].items():
        table.add_row(kind, str(facts["entries"]), decimal(facts["bytes"]))
    show(table)


def print_plan(plan: Mapping[str, Any]) -> None:
    """Print `estimates.describe`: a line for each model on each task, then the totals and what is unknown."""
    table = Table("task", "model", title="runs")
    for column in ("runs", "done", "to do", "steps each", "steps left", "s a step", "hours left"):
        table.add_column(column, justify="right")
    for job in plan["jobs"]:
        done = str(job["done"]) + (f" (+{job['unchecked']} unchecked)" if job["unchecked"] else "")
        counts = [str(job["runs"]), done, str(job["missing"] + job["stale"] + job["unkept"])]
        each = "unknown" if job["steps_each"] is None else " or ".join(map(_count, job["steps_each"]))
        steps = [each, _count(job["steps_left"])]
        speed = [_known(job["seconds_a_step"], ".3g"), _hours(job["seconds_left"])]
        tuned = " (tuning)" if job["kind"].startswith("tuned") else ""
        table.add_row(cell(job["task"]), cell(job["model"] + tuned), *counts, *steps, *speed)
    show(table)
    for line in (*_plan_totals(plan), *_plan_design(plan), *(f"- {note}" for note in plan["notes"])):
        show(cell(line))


DISK = {"logits": "logits", "teachers": "teachers", "students": "kept students"}


def _plan_totals(plan: Mapping[str, Any]) -> list[str]:
    stages, steps = plan["stages"], plan["steps"]
    idle = f", {stages['not_applicable']} of them with nothing to do" if stages["not_applicable"] else ""
    disk = {part: "unknown" if size is None else decimal(size) for part, size in plan["disk_bytes"].items()}
    sizes = ", ".join(f"{name} {disk[part]}" for part, name in DISK.items())
    return [
        f"stages: {stages['total']}{idle}",
        *_plan_tuning(plan),
        *(f"{part}: {_states(plan[part])}" for part in ("teachers", "trials")),
        f"optimizer steps: {_left_of_total(_count(steps['left']), _count(steps['total']))}",
        f"hours, one run after another: {_plan_hours(plan)}",
        f"disk, at most: {sizes} (DVC's cache may hold a second copy)",
    ]


def _plan_tuning(plan: Mapping[str, Any]) -> list[str]:
    tuning = plan.get("tuning")
    if tuning is None:
        return []
    each = f"at most {tuning['settings']} settings of each, {tuning['seeds']} seed(s) each"
    kinds = {"methods": "trials", "teachers": "teachers"}
    return [
        f"tuning of {name}, {each}: {_states(tuning[key])}"
        for name, key in kinds.items()
        if tuning[key]["total"]
    ]


def _plan_design(plan: Mapping[str, Any]) -> list[str]:
    """How many trials the looks need at least, at most and probably, and how much they decide."""
    design = plan["design"]
    if len(design["looks"]) < 2 and not design["forecasts"]:
        return []
    looks = ", ".join(map(str, design["looks"]))
    least, most = (f"{design[name]['trials']} trials {_cost(design[name])}" for name in ("least", "most"))
    lines = [f"judged after {looks} seeds: at least {least}, at most {most}"]
    for case in design["forecasts"]:
        words = ", ".join(f"{case[word]:.1f} {word}" for word in ("better", "worse", "equivalent"))
        lines.append(
            f"if {case['assumed']}: {case['likely']} trials {_cost(case['cost'])}, {case['low']} to {case['high']} in "
            f"8 of 10 studies; {case['decided']:.1f} of {case['comparisons']} comparisons decided ({words})"
        )
    if design["forecasts"] and design["settle"] == "claims":
        lines.append(
            f"with settle: claims, a claim that stays open takes more trials, at most {design['most']['trials']}"
        )
    if not design["forecasts"]:
        lines.append("how many trials are likely: say --sd, the standard deviation of paired differences")
    return lines


def _cost(cost: Mapping[str, Any]) -> str:
    size = "unknown" if cost["logit_bytes"] is None else decimal(round(cost["logit_bytes"]))
    return f"({_hours(cost['seconds'])} hours, logits {size})"


def _plan_hours(plan: Mapping[str, Any]) -> str:
    if not plan["devices"]:
        return "unknown (--calibrate times a few steps of each model)"
    hours = {part: _hours(seconds) for part, seconds in plan["seconds_known"].items()}
    text = f"{_left_of_total(hours['left'], hours['total'])}, on {', '.join(plan['devices'])}"
    is_complete = plan["seconds"]["total"] is not None
    return text if is_complete else f"{text}, without the models whose speed or rows are unknown"


def _left_of_total(left: str, total: str) -> str:
    return total if left == total else f"{left} left of {total}"


def _states(counts: Mapping[str, int]) -> str:
    parts = [f"{counts['total']} in all", f"{counts['done']} done", f"{counts['missing']} to run"]
    texts = {
        "stale": "to run again",
        "unkept": "to run once more for models to keep",
        "unchecked": "there, but whether they are up to date is unknown",
    }
    return ", ".join([*parts, *(f"{counts[state]} {text}" for state, text in texts.items() if counts[state])])


def _count(value: int | None) -> str:
    return _known(value, ",")


def _hours(seconds: float | None) -> str:
    return _known(None if seconds is None else seconds / 3600, ".3g")


def _known(value: float | None, form: str) -> str:
    return "unknown" if value is None else f"{value:{form}}"


def _columns(columns: Mapping[str, Mapping[str, Any]]) -> Table:
    """A table with a column for each split, and a row for each key that any of them has."""
    table = Table("")
    for name in columns:
        table.add_column(cell(name), justify="right")
    for key in dict.fromkeys(key for values in columns.values() for key in values):
        table.add_row(cell(key), *(_number(values.get(key, "")) for values in columns.values()))
    return table


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested numbers, each under one key: {"top_probability": {"mean": 0.9}} becomes {"top probability, mean": 0.9}."""
    flat = {}
    for key, value in values.items():
        name = NAMES.get(key, key.replace("_", " "))
        if isinstance(value, int | float):
            flat[name] = value
        elif isinstance(value, Mapping) and key not in ELSEWHERE:
            flat |= {f"{name}, {part}": number for part, number in value.items()}
    return flat


def _number(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_number, value))
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(value: Any, between: str = "\n") -> str:
    """A value as text. A dictionary has a line for each key, and a dictionary inside it stays on one line."""
    if isinstance(value, dict):
        return between.join(f"{key}: {_text(item, ', ')}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)


def cell(text: str, lines: bool = False) -> str:
    """Text without Rich's markup or control characters, since data must not control the terminal."""
    return escape("".join(char if char.isprintable() or (lines and char == "\n") else " " for char in text))


def _shortened(text: str) -> str:
    return text if len(text) <= TEXT else f"{text[: TEXT - 3]}..."


def show(content: Table | str) -> None:
    """Print a table or a text, as wide as the terminal."""
    Console(width=None if sys.stdout.isatty() else 160).print(
        content, soft_wrap=isinstance(content, str), highlight=False
    )
