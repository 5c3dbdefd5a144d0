"""Labels: what is accepted, and what each refusal says."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kdcache.errors import TaskError
from kdcache.tasks.labels import among_integers, read_labels


def labels(train: Any, validation: Any, names: list[str] | None = None, regression: bool = False) -> Any:
    columns = {"train": pa.chunked_array([train]), "validation": pa.chunked_array([validation])}
    return read_labels(columns, names, regression)


def test_strings_become_the_sorted_names_of_train() -> None:
    found = labels(["sad", "happy", "sad", "angry"], ["happy", "angry"])
    assert found.names == ["angry", "happy", "sad"]
    assert found.values["train"].tolist() == [2, 1, 2, 0]
    assert found.values["validation"].tolist() == [1, 0]
    assert found.values["train"].dtype == np.int64


def test_strings_of_pandas_categoricals_and_large_strings() -> None:
    train = pa.array(["b", "a"]).dictionary_encode()
    found = labels(train, pa.array(["a"], pa.large_string()))
    assert found.names == ["a", "b"]
    assert found.values["train"].tolist() == [1, 0]


def test_string_labels_follow_declared_names() -> None:
    found = labels(["yes", "no"], ["no"], names=["yes", "no"])
    assert found.names == ["yes", "no"]
    assert found.values["train"].tolist() == [0, 1]


def test_a_string_label_that_train_lacks() -> None:
    with pytest.raises(
        TaskError, match=r"validation: labels that train does not have: c, d \(train has a, b\)"
    ):
        labels(["a", "b"], ["a", "d", "c"])


def test_a_string_label_that_looks_like_one_of_train() -> None:
    with pytest.raises(TaskError, match=r"not have: 'e\\u0301' \(train has a, '\\xe9'\)"):
        labels(["a", "\u00e9"], ["e\u0301"])


def test_an_empty_string_label() -> None:
    with pytest.raises(TaskError, match=r"train: the label is an empty text in 1 row \(row 1\)"):
        labels(["a", " ", "b"], ["a"])


def test_integers_name_themselves() -> None:
    found = labels([1, 0, 2], pa.array([2], pa.int8()))
    assert found.names == ["0", "1", "2"]
    assert found.values["validation"].dtype == np.int64


def test_booleans_are_two_classes() -> None:
    found = labels([True, False], [True])
    assert found.names == ["false", "true"]
    assert found.values["train"].tolist() == [1, 0]


@pytest.mark.parametrize(("train", "validation", "found"), [([1, 2], [1], "1, 2"), ([0, 2], [5], "0, 2, 5")])
def test_integers_with_gaps_are_listed(train: list[int], validation: list[int], found: str) -> None:
    with pytest.raises(TaskError, match=f"0..K-1 without gaps, found {found}; renumber"):
        labels(train, validation)


def test_a_class_absent_from_train() -> None:
    with pytest.raises(TaskError, match=r"train: no row of class 2 \(classes: 0, 1, 2\)"):
        labels([0, 1], [0, 1, 2])
    with pytest.raises(TaskError, match=r"train: no row of classes no, maybe"):
        labels([0, 0], [1], names=["yes", "no", "maybe"])


def test_a_label_outside_the_declared_names() -> None:
    with pytest.raises(TaskError, match=r"validation: label 3 is outside the 2 declared classes \(a, b\)"):
        labels([0, 1], [3], names=["a", "b"])


def test_one_class_is_no_classification() -> None:
    with pytest.raises(TaskError, match="at least two classes, train has 0"):
        labels([0, 0], [0])


def test_hidden_labels() -> None:
    with pytest.raises(
        TaskError, match=r"validation: the label is -1 in 2 rows \(row 0, 1\), which means hidden"
    ):
        labels([0, 1], [-1, -1], names=["a", "b"])
    with pytest.raises(TaskError, match=r"train: negative labels in 1 row \(row 1\)"):
        labels([0, -7], [0])


def test_missing_labels() -> None:
    with pytest.raises(TaskError, match=r"train: the label is missing in 1 row \(row 1\)"):
        labels([0, None, 1], [0])
    with pytest.raises(TaskError, match=r"validation: the label is missing in 2 rows"):
        labels([0.5], pa.array([None, None], pa.float32()), regression=True)


def test_many_rows_are_cut_in_the_message() -> None:
    with pytest.raises(TaskError, match=r"in 30 rows \(row 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\.\)"):
        labels(pa.array([None] * 30, pa.int64()), [0])


def test_floats_only_for_a_regression() -> None:
    with pytest.raises(TaskError, match=r"train: the labels are double; .* pearson or spearman"):
        labels([0.0, 1.0], [0.0])
    found = labels(pa.array([0.5, 1], pa.float32()), pa.array([2]), regression=True)
    assert found.names == []
    assert found.values["train"].tolist() == [0.5, 1.0]
    assert found.values["validation"].dtype == np.float64


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_regression_refuses_nan_and_infinity(bad: float) -> None:
    with pytest.raises(TaskError, match=r"validation: the label is NaN or infinite in 1 row \(row 1\)"):
        labels([0.5], [0.5, bad], regression=True)


def test_a_regression_refuses_text() -> None:
    with pytest.raises(TaskError, match="train: a regression needs numbers as labels, found string"):
        labels(["a"], ["b"], regression=True)


def test_types_that_differ_or_do_not_fit() -> None:
    with pytest.raises(TaskError, match="different types: integer in train, string in validation"):
        labels([0, 1], ["a"])
    with pytest.raises(TaskError, match="does not fit 64 bits"):
        labels(pa.array([2**64 - 1], pa.uint64()), pa.array([0], pa.uint64()))
    with pytest.raises(TaskError, match=r"train: the labels are list<"):
        labels(pa.array([[1]]), pa.array([[1]]))


@given(st.lists(st.sampled_from("abcde"), min_size=2).filter(lambda found: len(set(found)) > 1))
def test_string_labels_can_be_read_back(values: list[str]) -> None:
    found = labels(values, values[:1])
    assert [found.names[index] for index in found.values["train"]] == values


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["10", "2", "1"], ["1", "2", "10"]),  # all whole numbers: by value
        (["-1", "1", "0"], ["-1", "0", "1"]),
        (["0", "00", "01", "1"], ["0", "00", "01", "1"]),  # four classes, by their letters
        (["10", "2", "4A"], ["10", "2", "4A"]),
        (["1.0", "10", "2"], ["1.0", "10", "2"]),
        (["9" * 30, "1" * 40, "5"], ["1" * 40, "5", "9" * 30]),  # numbers that no integer holds are texts
    ],
)
def test_the_order_of_texts(written: list[str], expected: list[str]) -> None:
    assert labels(written, written[:1]).names == expected


@pytest.mark.parametrize(
    "twin", ["pos ", " pos", "pos\n", "pos\t", "pos\u00a0", "pos\u200b", "\ufeffpos", "p\u00ados", "pos\0"]
)
def test_classes_that_differ_in_what_nobody_sees(twin: str) -> None:
    with pytest.raises(TaskError, match=r"look the same: .*('pos', '|', 'pos';).* write each class in one"):
        labels(["pos", "neg", twin], ["pos"])
    with pytest.raises(TaskError, match="validation: labels that train does not have: '"):
        labels(["pos", "neg"], [twin])


def test_classes_that_differ_in_the_encoding_of_a_letter() -> None:
    with pytest.raises(TaskError, match=r"look the same: 'cafe\\u0301', 'caf\\xe9'; write"):
        labels(["caf\u00e9", "cafe\u0301"], ["caf\u00e9"])


def test_white_space_inside_and_case_make_other_classes() -> None:
    assert labels(["a b", "ab", "AB"], ["ab"]).names == ["AB", "a b", "ab"]
    assert labels(["\ue000", "\ue001"], ["\ue000"]).names == ["\ue000", "\ue001"]  # signs of somebody's own
    with pytest.raises(TaskError, match="'a  b', 'a b'"):
        labels(["a b", "a  b"], ["a b"])


def test_declared_names_that_nobody_could_tell_apart() -> None:
    with pytest.raises(TaskError, match=r"two classes are named a \(classes: a, b, a\); names must differ"):
        labels([0, 1, 2], [0], names=["a", "b", "a"])
    with pytest.raises(TaskError, match="look the same"):
        labels([0, 1], [0], names=["a", "a "])
    with pytest.raises(TaskError, match=r"a class has an empty name \(classes: 'a', ''\)"):
        labels([0, 1], [0], names=["a", ""])


def test_texts_beside_integers_are_integers_if_all_are() -> None:
    assert labels([0, 1, 2], ["2", "0"]).values["validation"].tolist() == [2, 0]
    assert labels(["1", "0"], [1]).names == ["0", "1"]
    for other in ("00", "1.0", "one", " 1", "+1"):
        with pytest.raises(TaskError, match="different types: integer in train, string in validation"):
            labels([0, 1], ["0", other])


def test_texts_beside_integers_with_declared_names() -> None:
    assert labels([0, 1], ["1"], names=["no", "yes"]).values["validation"].tolist() == [1]
    assert labels([0, 1], ["1"], names=["0", "1"]).values["validation"].tolist() == [1]
    # Is "1" the class of that name, 0, or of that number?
    with pytest.raises(TaskError, match="different types"):
        labels([0, 1, 2], ["1"], names=["1", "2", "3"])


def test_missing_texts_beside_integers_stay_missing() -> None:
    columns = {0: pa.chunked_array([[1, 0]]), 1: pa.chunked_array([["1", None]])}
    assert among_integers(columns, None)[1].to_pylist() == [1, None]


def test_hidden_labels_as_texts() -> None:
    with pytest.raises(TaskError, match=r"does not have: -1 \(train has 0, 1\); -1 often means hidden"):
        labels(["0", "1"], ["-1", "-1"])


def test_decimal_scores() -> None:
    train = pa.array([Decimal("1.25"), Decimal("-3.5")], pa.decimal128(12, 3))
    found = labels(train, pa.array([Decimal("2")], pa.decimal256(40, 2)), regression=True)
    assert found.values["train"].tolist() == [1.25, -3.5]
    assert found.values["validation"].tolist() == [2.0]


@given(
    st.decimals(-(10**12), 10**12, places=4), st.sampled_from([pa.decimal128(30, 4), pa.decimal256(60, 4)])
)
@example(Decimal("297.9"), pa.decimal128(12, 4))  # Arrow's cast gives 297.90000000000003
def test_a_decimal_score_is_the_nearest_double(score: Decimal, kind: pa.DataType) -> None:
    train = pa.array([score], kind)
    assert labels(train, train, regression=True).values["train"].tolist() == [float(str(score))]


def test_bytes_are_no_texts() -> None:
    with pytest.raises(
        TaskError, match="train: the labels are bytes that are not marked as text; write them as"
    ):
        labels(pa.array([b"a", b"b"]), pa.array([b"a"]))


def test_long_names_are_cut_in_messages() -> None:
    with pytest.raises(TaskError) as caught:
        labels(["a", "b"], ["x" * 100_000])
    assert len(str(caught.value)) < 300
