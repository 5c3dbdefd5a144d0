"""settle.json: who has how many seeds, and by what a study was judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdcache.errors import KdcacheError
from kdcache.study import load_study
from kdcache.study.settled import ensure_settled, read_settled, settled_beside, write_settled
from tests.study.samples import changed, write

LOOKS = {"seeds": 8, "comparison.looks": [2, 4, 8]}


def counts(base: int, other: int) -> dict[str, Any]:
    study = changed({})
    methods = [*study["regularizers"], *study["distillers"]]
    of_student = {method: base if method == "base" else other for method in methods}
    return {"news": {"small": of_student}, "digits": {"glance": of_student}}


def test_written_and_read_again(tmp_path: Path) -> None:
    params = write(tmp_path, changed(LOOKS))
    path = settled_beside(params)
    write_settled(path, load_study(params), counts(4, 2))
    first = path.read_bytes()
    study = load_study(params)
    assert study.seeds_of("news", "small", "base") == [0, 1, 2, 3]
    assert study.seeds_of("news", "small", "smooth") == [0, 1]
    write_settled(path, study, counts(4, 2))
    assert path.read_bytes() == first


def test_a_new_configuration_has_the_first_looks_seeds_and_a_baseline_what_its_methods_have(
    tmp_path: Path,
) -> None:
    params = write(tmp_path, changed(LOOKS))
    assert load_study(params).seeds_of("news", "small", "kd") == [0, 1]
    settled_beside(params).write_text(
        json.dumps({"declared": [], "seeds": {"news": {"small": {"kd": 8, "base": 2}}}})
    )
    study = load_study(params)
    assert len(study.seeds_of("news", "small", "kd")) == len(study.seeds_of("news", "small", "base")) == 8
    assert len(study.seeds_of("news", "small", "smooth")) == 2


def test_a_fixed_design_has_all_its_seeds_whatever_the_file_says(tmp_path: Path) -> None:
    params = write(tmp_path, changed({}))
    settled_beside(params).write_text("no JSON")
    study = load_study(params)
    assert study.seeds_of("news", "small", "base") == study.seeds
    assert study.looks == [len(study.seeds)]


def test_what_another_study_was_judged_by_is_of_no_concern(tmp_path: Path) -> None:
    """Another study: none of its seeds is one of those that were judged. One common seed is enough to be the same."""
    params = write(tmp_path, changed(LOOKS))
    write_settled(settled_beside(params), load_study(params), counts(4, 2))
    write(tmp_path, changed({**LOOKS, "seeds": {"first": 8, "count": 8}}))
    study = load_study(params)
    assert study.seeds_of("news", "small", "base") == [8, 9]
    assert len(study.declarations) == 1
    write(tmp_path, changed({**LOOKS, "seeds": {"first": 7, "count": 8}}))
    study = load_study(params)
    assert study.seeds_of("news", "small", "base") == [7, 8, 9, 10]
    assert len(study.declarations) == 2


def test_what_goes_on_may_be_declared_anew_at_any_time(tmp_path: Path) -> None:
    params = write(tmp_path, changed(LOOKS))
    write_settled(settled_beside(params), load_study(params), counts(4, 4))
    write(tmp_path, changed({**LOOKS, "comparison.settle": "claims"}))
    assert [one["settle"] for one in load_study(params).declarations] == ["claims"]


def test_what_was_declared_before_stays(tmp_path: Path) -> None:
    params = write(tmp_path, changed(LOOKS))
    write_settled(settled_beside(params), load_study(params), counts(4, 4))
    assert len(load_study(params).declarations) == 1
    write(tmp_path, changed({**LOOKS, "comparison.alpha": 0.1}))
    study = load_study(params)
    assert [one["alpha"] for one in study.declarations] == [0.05, 0.1]
    write_settled(settled_beside(params), study, counts(4, 4))
    assert [one["alpha"] for one in read_settled(settled_beside(params)).declared] == [0.05, 0.1]
    assert len(load_study(params).declarations) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "the file: "),
        ('{"seeds": {"a": {"small": {"kd": "4"}}}}', "seeds.a.small.kd: "),
        ('{"seeds": {"a": {"small": {"kd": 0}}}}', "seeds.a.small.kd: "),
        ('{"more": 1}', "more: "),
        ('{"declared": [{"seeds": -1}]}', "declared: .*expected a list of seeds"),
        ('{"declared": [{"seeds": {"first": 1}}]}', "declared: .*expected a list of seeds"),
        ('{"declared": [{"seeds": [[1], {}]}]}', "declared: .*no list of whole numbers"),
        ('{"declared": [{"seeds": "0"}]}', "declared: .*no list of whole numbers"),
        ("{", "is not valid JSON"),
    ],
)
def test_what_it_cannot_be_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "settle.json"
    path.write_text(text)
    with pytest.raises(KdcacheError, match=said):
        read_settled(path)


def test_an_empty_file_where_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "settle.json"
    ensure_settled(path)
    assert read_settled(path).seeds == {}
    path.write_text('{"seeds": {"a": {"b": {"c": 3}}}}')
    ensure_settled(path)
    assert read_settled(path).seeds == {"a": {"b": {"c": 3}}}
