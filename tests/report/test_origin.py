"""How the numbers were made: versions, devices and shortened fingerprints; nothing without provenance.json."""

from pathlib import Path

from kdcache.report import origin
from kdcache.results.reading import read_metrics
from tests.report import samples


def test_versions_and_fingerprints(tmp_path: Path) -> None:
    metrics = read_metrics(samples.write_all(tmp_path))
    assert origin.made_with(metrics) == [
        ("Trained with", "torch 2.9.0 and 2.9.1, transformers 4.57.1"),
        ("Trained on", "75 trials on cpu, bfloat16"),
        ("Compared with", "kdcache 0.1.0, scipy 1.16.2"),
    ]
    task, cache = origin.fingerprints(metrics)
    assert (task.name, task.rows, task.prints) == (
        "bbc-headlines",
        "1,170 train and 1,000 validation",
        [("data", "dddddddddddd")],
    )
    assert cache.name == "logits of bert-small on bbc-headlines"
    assert cache.prints[0] == ("cache", "0123456789ab")
    assert [kind for kind, _ in cache.prints] == ["cache", "data", "weights", "preprocessing", "code"]


def test_older_metrics_say_nothing(tmp_path: Path) -> None:
    metrics = read_metrics(samples.write(tmp_path))
    assert (origin.made_with(metrics), origin.fingerprints(metrics)) == ([], [])


def test_it_says_what_was_checked_when_the_code_was_refactored(tmp_path: Path) -> None:
    metrics = read_metrics(samples.write_all(tmp_path))
    metrics.provenance["adopted"] = [{"from": "a" * 64, "to": "b" * 64, "checked": 10, "of": 75}]
    said = dict(origin.made_with(metrics))["Code refactored since"]
    assert said == (
        f"from {'a' * 12} to {'b' * 12}: 10 of 75 trainings were run again, with the same logits and losses bit for bit"
    )
