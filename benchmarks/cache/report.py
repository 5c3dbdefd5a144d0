"""docs/measured/cache-benchmarks.md, made from the JSON of a run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.markdown import number, table

VERDICT = {True: "met", False: "**missed**", None: ""}


def page(run: Mapping[str, Any]) -> str:
    """The whole page, in Markdown."""
    measurements = run["measurements"]
    parts = [
        "# The cache, measured",
        f"Made by `python -m benchmarks.cache` on {run['machine']}{_gpu(run)}, {run['date']}; {_versions(run)}. "
        f"Each number is the median of {run['options']['repeats']} rounds or more, in which the variants take turns; "
        "ratios are medians over the rounds, with the least and the greatest in brackets.",
        goal_table([goal for measurement in measurements.values() for goal in measurement["goals"]]),
        *(f"## {name.capitalize()}\n\n{details(measurement)}" for name, measurement in measurements.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def goal_table(goals: Sequence[Mapping[str, Any]]) -> str:
    """Every goal, what was measured, and whether it was met."""
    rows = [[goal["what"], goal["goal"], _measured(goal), VERDICT[goal["met"]]] for goal in goals]
    return table(["what", "goal", "measured", ""], rows)


def _measured(goal: Mapping[str, Any]) -> str:
    if goal["measured"] is None:
        return goal["reason"] or "not measured"
    low, high = goal["low"], goal["high"]
    spread = f" ({number(low)} to {number(high)})" if low != high else ""
    return f"{number(goal['measured'])} {goal['unit']}".rstrip() + spread


def details(measurement: Mapping[str, Any]) -> str:
    """All that one module measured besides its goals, and where the time goes for missed goals."""
    parts = [_made(measurement["made"])] if "made" in measurement else []
    parts += [_rates(title, values) for title, values in measurement["rates"].items()]
    parts.append(_facts(measurement["facts"]))
    parts.append("\n".join(f"- {note}" for note in measurement["notes"]))
    parts += [_profile(goal) for goal in measurement["goals"] if goal["profile"]]
    return "\n\n".join(part for part in parts if part)


def _made(made: Mapping[str, Any]) -> str:
    return (
        f"Measured by itself on {made['machine']}{_gpu(made)}, {made['date']}, {made['options']['repeats']} rounds; "
        f"{_versions(made)}."
    )


def _rates(title: str, rates: Mapping[str, Sequence[float]]) -> str:
    rows = [
        [name, number(statistics.median(values)), number(min(values)), number(max(values))]
        for name, values in rates.items()
    ]
    return table([title, "median", "least", "greatest"], rows, right=(1, 2, 3))


def _facts(facts: Mapping[str, Any]) -> str:
    rows = [[name, _value(value)] for name, value in facts.items()]
    return table(["", ""], rows) if rows else ""


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "; ".join(map(_value, value))
    return number(value) if isinstance(value, int | float) else "none" if value is None else str(value)


def _profile(goal: Mapping[str, Any]) -> str:
    lines = "\n".join(goal["profile"])
    return f"Missed: {goal['what']}. Where the main thread's time goes:\n\n```\n{lines}\n```"


def _gpu(run: Mapping[str, Any]) -> str:
    return f", {run['gpu']} (device {run['options']['device']})" if run["gpu"] else ""


def _versions(run: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in run["versions"].items())
