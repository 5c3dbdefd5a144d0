"""Gains against tokens: the trend by hand, the amounts from the cards, and what the figure shows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pytest
import yaml

from kdcache.errors import KdcacheError
from kdcache.statistics.families import correct
from kdcache.statistics.verdicts import compare
from kdcache.study import Study
from tools import pretraining_amount as dose
from tools.pretraining import PretrainingError
from tools.pretraining_amount import Amount

SEEDS = [0, 1, 2]
TOKENS = {"at-0": 0, "at-2": 2_000_000, "at-8": 8_000_000, "at-32": 32_000_000}
# points gained by seed, for each amount in the order of TOKENS
GAINS = {
    "kd": [[5.0, 3.0, 2.0, 1.0], [6.0, 4.0, 3.0, 1.0], [4.0, 2.0, 3.0, 0.0]],
    "smooth": [[0.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 2.0], [0.5, -1.0, 0.0, 0.0]],
}


def params(**changes: Any) -> dict[str, Any]:
    recipe = {"learning_rate": 1e-3, "epochs": 1, "batch_size": 8}
    students = {
        name: {"checkpoint": f"somewhere/{name}", "init": "pretrained" if tokens else "scratch", **recipe}
        for name, tokens in reversed(TOKENS.items())  # the amounts are sorted, however the study lists them
    }
    task = {
        "source": {"builtin": "bbc_headlines"},
        "text": ["text"],
        "metrics": ["accuracy"],
        "max_length": 8,
    }
    return {
        "seeds": SEEDS,
        "tasks": {"news": task},
        "teachers": {"big": {"checkpoint": "somewhere/big", **recipe}},
        "students": {name: student | {"teacher": "big"} for name, student in students.items()},
        "regularizers": {"base": {}, "smooth": {"soft_labels": "uniform", "alpha": 0.1}},
        "distillers": {"kd": {"soft_labels": "teacher", "alpha": 0.5, "temperature": 2}},
        "comparison": {"baseline": "base", "margin": {"accuracy": 1.0}},
        **changes,
    }


STUDY = Study.model_validate(params())
FOUND = {name: Amount(tokens, None) for name, tokens in TOKENS.items()}


def trials() -> pd.DataFrame:
    rows = []
    for place, student in enumerate(TOKENS):
        for method in ("base", "smooth", "kd"):
            for seed in SEEDS:
                gain = 0.0 if method == "base" else GAINS[method][seed][place]
                score = 0.7 + 0.05 * place + seed / 1000 + gain / 100
                row = {
                    "task": "news",
                    "student": student,
                    "regularizer": method,
                    "seed": seed,
                    "accuracy": score,
                }
                init = STUDY.students[student].init
                rows.append(
                    row | {"init": init, "family": "bert", "teacher": "big", "checkpoint": "c", "layers": 2}
                )
    return pd.DataFrame(rows)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder as the study leaves it: params.yaml, metrics/ and the cards."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params(), sort_keys=False))
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    trials().to_csv(metrics / "trials.csv", index=False)
    compare(trials(), STUDY).to_csv(metrics / "comparisons.csv", index=False)
    cost = ["kind", "task", "model", "regularizer", "seed", "seconds", "peak_memory_mb", "device"]
    pd.DataFrame(columns=cost).to_csv(metrics / "cost.csv", index=False)
    (metrics / "summary.json").write_text("{}")
    for name, tokens in TOKENS.items():
        folder = tmp_path / "cards" / name
        folder.mkdir(parents=True)
        rows = f"| tokens seen | {tokens:,} (0.5 epochs) |\n| held-out loss | 5.125 nats a predicted token |"
        (folder / "README.md").write_text(f"# {name}\n\n| | |\n| --- | --- |\n{rows}\n")
    return tmp_path


def test_slopes_by_hand():
    """Tokens 2, 8, 32 million are 2 doublings apart: the slope is (last - first) / 4."""
    table = dose.trend(trials(), STUDY, FOUND).set_index(["contrast", "regularizer"])
    assert table.loc[("per doubling", "kd"), "estimate"] == pytest.approx(np.mean([-2 / 4, -3 / 4, -2 / 4]))
    assert table.loc[("per doubling", "smooth"), "estimate"] == pytest.approx(np.mean([0, 2 / 4, 1 / 4]))
    both = np.array([-2 / 4 + 0, -3 / 4 + 2 / 4, -2 / 4 + 1 / 4]) / 2
    row = table.loc[("per doubling", "all")]
    assert row["estimate"] == pytest.approx(both.mean())
    half = 4.302653 * both.std(ddof=1) / np.sqrt(3)  # t(0.975, 2)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((both.mean() - half, both.mean() + half))


def test_scratch_against_the_mean_of_the_others_by_hand():
    table = dose.trend(trials(), STUDY, FOUND).set_index(["contrast", "regularizer"])
    expected = np.mean([5 - 2, 6 - 8 / 3, 4 - 5 / 3])
    assert table.loc[("scratch - pretrained", "kd"), "estimate"] == pytest.approx(expected)


def test_the_regularizers_are_one_family_and_their_mean_another():
    table = dose.trend(trials(), STUDY, FOUND)
    for _, rows in table.groupby("contrast"):
        p = dict(zip(rows["regularizer"], rows["p"], strict=True))
        corrected = dict(zip(rows["regularizer"], rows["p_corrected"], strict=True))
        assert [corrected["smooth"], corrected["kd"]] == pytest.approx(
            correct([p["smooth"], p["kd"]], "holm")
        )
        assert corrected["all"] == p["all"]


def test_slopes_are_those_of_least_squares_at_uneven_amounts():
    tokens, gains = np.array([0, 1.5e6, 2e6, 9e6, 5e7]), np.array([9.0, 3.0, -1.0, 2.0, 0.5])
    weights = dose.contrasts(tokens)["per doubling"]
    assert gains @ weights == pytest.approx(np.polyfit(np.log2(tokens[1:]), gains[1:], 1)[0])


def test_a_missing_trial_is_no_zero():
    with pytest.raises(KdcacheError, match=r"news, at-32, seed 2: no score of kd or of base"):
        dose.trend(trials().iloc[:-1], STUDY, FOUND)


def test_the_command_writes_the_figure_and_its_numbers(results, capsys):
    dose.main([str(results)])
    amounts = pd.read_csv(results / "amounts.csv")
    assert amounts["student"].tolist() == list(TOKENS)
    assert amounts["tokens"].tolist() == list(TOKENS.values())
    assert amounts["held_out_loss"].tolist()[1:] == [5.125] * 3
    assert np.isnan(amounts["held_out_loss"][0])  # the card of a scratch student's checkpoint is not its own
    assert amounts["baseline_mean"].tolist() == pytest.approx([70.1, 75.1, 80.1, 85.1])
    assert len(pd.read_csv(results / "trend.csv")) == 2 * 3
    assert "per doubling" in capsys.readouterr().out
    svg = (results / "gains.svg").read_text()
    for shown in ("none", "2M", "8M", "32M", "smooth", "kd"):
        assert f">{shown}</text>" in svg, shown


def test_the_tables_go_between_the_readmes_markers(results, capsys):
    readme = results / "README.md"
    readme.write_text("Before.\n\n<!-- amounts:begin -->\nold\n<!-- amounts:end -->\n\nAfter.\n")
    dose.main([str(results)])
    text = readme.read_text()
    assert text.startswith(
        "Before.\n\n<!-- amounts:begin -->\n\n| tokens | held-out loss | base | smooth | kd |\n"
    )
    assert text.endswith("<!-- amounts:end -->\n\nAfter.\n")
    assert text.count(capsys.readouterr().out.strip()) == 1
    # kd at 2 million: gains 3, 4, 2; t(0.975, 2) / sqrt(3) = 2.484
    (line,) = [line for line in text.splitlines() if line.startswith("| 2,000,000 | ")]
    assert line.startswith("| 2,000,000 | 5.12 | 75.1 ± 0.1 | ")
    assert "| +3.00 [0.52,\N{NO-BREAK SPACE}5.48] " in line
    # kd's slopes: -2/4, -3/4, -2/4
    assert "| kd | −0.58 [−0.94,\N{NO-BREAK SPACE}−0.22] | " in text


def test_the_figure_is_what_the_comparisons_say(results):
    metrics = dose.read_metrics(results / "metrics")
    spec = dose.figure(metrics, STUDY, FOUND)
    alt.Chart.from_dict(spec)  # raises SchemaValidationError
    text = json.dumps(spec)
    for row in metrics.comparisons.itertuples():
        assert json.dumps(row.difference) in text
        assert json.dumps(row.ci_low) in text


@pytest.mark.parametrize("scratch", [[], ["at-0", "at-0 as well"]], ids=["nobody", "two"])
def test_none_are_the_students_without_pretraining_and_only_those(scratch):
    found = {name: Amount(0, None) for name in scratch} | {
        "at-2": Amount(2_000_000, 6.0),
        "at-8": FOUND["at-8"],
    }
    places = dose._positions(found)
    axis = dose._x(found, places).to_dict()["axis"]
    assert axis["values"] == sorted(set(places.values()))
    none = [str(value) for value in axis["values"][:-2]]
    assert len(none) == bool(scratch)
    assert axis["labelExpr"].startswith(f"indexof([{', '.join(none)}], datum.value) >= 0 ? 'none' : ")


def test_two_checkpoints_of_one_folder_name_have_no_card_each(results):
    students = params()["students"]
    students["at-8"]["checkpoint"] = "elsewhere/at-2"
    with pytest.raises(KdcacheError, match="two checkpoints have one folder name"):
        dose.amounts(Study.model_validate(params(students=students)), results / "cards")


def test_the_committed_numbers_follow_from_the_committed_trials(tmp_path):
    committed = Path(__file__).parents[2] / "results/pretraining-amount"
    copy = Path(shutil.copytree(committed, tmp_path / "copy"))
    dose.main([str(copy)])
    assert (copy / "README.md").read_text() == (committed / "README.md").read_text()
    for name in ("amounts.csv", "trend.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(copy / name), pd.read_csv(committed / name), rtol=1e-4)


@pytest.mark.parametrize(
    ("card", "message"),
    [(None, "at-8/README.md: no model card"), ("# at-8\n", "the card '# at-8' has no row 'tokens seen'")],
)
def test_a_card_that_does_not_say_its_tokens_is_named(card, message, results):
    path = results / "cards/at-8/README.md"
    path.write_text(card) if card else path.unlink()
    with pytest.raises(PretrainingError, match=message):
        dose.amounts(STUDY, results / "cards")


def test_one_task_and_two_amounts_are_needed(results):
    task = params()["tasks"]["news"]
    two = Study.model_validate(params(tasks={"news": task, "more": task}))
    with pytest.raises(KdcacheError, match="a study of one task, found news, more"):
        dose.amounts(two, results / "cards")
    students = {name: params()["students"][name] for name in ("at-0", "at-2")}
    with pytest.raises(KdcacheError, match="two or more amounts"):
        dose.amounts(Study.model_validate(params(students=students)), results / "cards")
