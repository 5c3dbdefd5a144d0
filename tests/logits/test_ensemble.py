"""The ensemble of caches: means by hand, and refusals that name the first difference."""

from math import log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax

from kdcache.errors import CacheError
from kdcache.hashing.fingerprint import of_json
from kdcache.logits import Fingerprints, LogitCache, LogitWriter
from kdcache.logits.ensemble import ensemble

HASHES = np.array([11, 22, 33], np.uint64)
A = np.array([[1, 3], [0, log(3)], [0, 0]], np.float32)
B = np.array([[3, -1], [0, 0], [4, 4]], np.float32)


def write(
    path: Path,
    logits,
    *,
    ids=(0, 1, 2),
    hashes=HASHES,
    splits=("train",),
    names=("no", "yes"),
    size=100,
    **prints,
) -> Path:
    fingerprints = Fingerprints(
        **{"data": "d", "weights": path.name, "preprocessing": "p", "code": "c", **prints}
    )
    classes = np.shape(logits)[1]
    with LogitWriter(
        path, classes=classes, label_names=names, fingerprints=fingerprints, rows_per_shard=size
    ) as writer:
        for split in splits:
            writer.write(split, list(ids), hashes, np.asarray(logits, np.float32))
        writer.finish(scores={splits[0]: {"accuracy": 0.5}})
    return path


@pytest.fixture
def members(tmp_path: Path) -> list[Path]:
    """a, and b with its rows written in another order."""
    order = [2, 0, 1]
    splits = ("train", "validation")
    return [
        write(tmp_path / "a", A, splits=splits),
        write(tmp_path / "b", B[order], ids=order, hashes=HASHES[order], splits=splits),
    ]


def test_the_mean_of_logits(members: list[Path], tmp_path: Path) -> None:
    mean = ensemble(members, tmp_path / "mean")
    for split in ("train", "validation"):
        found = mean.split(split)
        assert found.ids.tolist() == [0, 1, 2]
        assert np.array_equal(found.row_hashes, HASHES)
        np.testing.assert_allclose(found.logits, [[2, 1], [0, log(3) / 2], [2, 2]], rtol=1e-6)
    assert (mean.path, mean.splits) == (tmp_path / "mean", ["train", "validation"])
    assert (mean.manifest.label_names, mean.manifest.dtype) == (["no", "yes"], "float32")
    assert mean.manifest.scores == {}
    assert mean.verify("full").rows == 6


def test_the_mean_of_probabilities(members: list[Path], tmp_path: Path) -> None:
    mean = ensemble([LogitCache(members[0]), members[1]], tmp_path / "mean", of="probabilities")
    # row 1: (1/4 + 1/2) / 2 and (3/4 + 1/2) / 2; row 2: both even
    np.testing.assert_allclose(mean.logits("train", [1, 2]), np.log([[0.375, 0.625], [0.5, 0.5]]), rtol=1e-6)


def test_weights_are_shares(members: list[Path], tmp_path: Path) -> None:
    mean = ensemble(members, tmp_path / "mean", weights=[3, 1])
    np.testing.assert_allclose(mean.logits("train", [0]), [[1.5, 2.0]], rtol=1e-6)
    mean = ensemble(members, tmp_path / "mean", of="probabilities", weights=[1, 3])  # replaces the first
    np.testing.assert_allclose(mean.logits("train", [1]), np.log([[0.4375, 0.5625]]), rtol=1e-6)


@pytest.mark.parametrize("of", ["logits", "probabilities"])
def test_a_member_without_weight_has_no_say(members: list[Path], tmp_path: Path, of) -> None:
    mean = ensemble(members, tmp_path / "mean", of=of, weights=[0, 2])
    np.testing.assert_allclose(softmax(mean.split("train").logits, axis=1), softmax(B, axis=1), rtol=1e-6)


def test_extreme_logits_stay_finite(tmp_path: Path) -> None:
    members = [write(tmp_path / "a", [[3e38, -3e38]] * 3), write(tmp_path / "b", [[3e38, 3e38]] * 3)]
    assert np.array_equal(ensemble(members, tmp_path / "m").logits("train", [0]), np.float32([[3e38, 0]]))
    mean = ensemble(members, tmp_path / "p", of="probabilities")
    np.testing.assert_allclose(mean.logits("train", [0]), np.log([[0.75, 0.25]]), rtol=1e-6)


def test_a_shard_is_as_small_as_the_members_ask_for(tmp_path: Path) -> None:
    mean = ensemble([write(tmp_path / "a", A, size=2), write(tmp_path / "b", B, size=5)], tmp_path / "mean")
    assert [shard.rows for shard in mean.manifest.splits["train"].shards] == [2, 1]


def test_what_an_ensemble_is_made_of_is_its_fingerprint(members: list[Path], tmp_path: Path) -> None:
    even = ensemble(members, tmp_path / "even").manifest.fingerprints
    scaled = ensemble(members, tmp_path / "scaled", weights=[2, 2]).manifest.fingerprints
    uneven = ensemble(members, tmp_path / "uneven", weights=[2, 1]).manifest.fingerprints
    probabilities = ensemble(members, tmp_path / "probabilities", of="probabilities").manifest.fingerprints
    assert (even.data, even.preprocessing, even.code) == ("d", "p", "c")
    assert even == scaled
    assert len({even.weights, uneven.weights, probabilities.weights}) == 3
    other = [members[0], write(tmp_path / "c", B, splits=("train", "validation"), preprocessing="q")]
    mixed = ensemble(other, tmp_path / "mixed").manifest.fingerprints
    assert (mixed.preprocessing, mixed.code) == (of_json(["p", "q"]), "c")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("yes", "no")}, r"other label names: expected \['no', 'yes'\], found \['yes', 'no'\]"),
        ({"data": "e"}, r"other data \(fingerprint\): expected d, found e"),
        ({"splits": ("test",)}, r"other splits \(rows\): expected \{'train': 3\}, found \{'test': 3\}"),
        ({"ids": (0, 1, 5)}, "expected row id 2 with hash 0000000000000021, found row id 5"),
        (
            {"hashes": HASHES + np.uint64(1)},
            "expected row id 0 with hash 000000000000000b, .*c .3 of 3 rows differ",
        ),
    ],
)
def test_members_that_do_not_fit_are_refused(tmp_path: Path, changes, message) -> None:
    members = [write(tmp_path / "a", A), write(tmp_path / "b", B, **changes)]
    with pytest.raises(CacheError, match=message) as refused:
        ensemble(members, tmp_path / "mean")
    assert str(refused.value).startswith(str(tmp_path / "b"))
    assert not (tmp_path / "mean" / "manifest.json").exists()


def test_other_numbers_of_classes_are_refused(tmp_path: Path) -> None:
    members = [write(tmp_path / "a", A), write(tmp_path / "b", np.ones((3, 3)), names=())]
    with pytest.raises(CacheError, match="other classes: expected 2, found 3"):
        ensemble(members, tmp_path / "mean")


def test_a_regression_has_no_probabilities(tmp_path: Path) -> None:
    members = [write(tmp_path / name, A[:, :1] * k, names=()) for k, name in enumerate("ab", start=1)]
    np.testing.assert_allclose(ensemble(members, tmp_path / "mean").logits("train", [0]), [[1.5]])
    with pytest.raises(CacheError, match="no probabilities"):
        ensemble(members, tmp_path / "other", of="probabilities")


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [1, -1], [0, 0], [1, np.inf], [np.nan, 1]])
def test_unusable_weights(members: list[Path], tmp_path: Path, weights) -> None:
    with pytest.raises(CacheError, match="expected 2 numbers >= 0"):
        ensemble(members, tmp_path / "mean", weights=weights)


def test_unusable_calls(members: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="found none"):
        ensemble([], tmp_path / "mean")
    with pytest.raises(CacheError, match="no ensemble of 'labels'"):
        ensemble(members, tmp_path / "mean", of="labels")  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["b", "b/../b", "b/train", "link"])
def test_a_member_is_never_written_to(members: list[Path], tmp_path: Path, path) -> None:
    (tmp_path / "link").symlink_to(members[1])
    with pytest.raises(CacheError, match="one of the ensemble's caches"):
        ensemble(members, tmp_path / path)
    assert np.array_equal(LogitCache(members[1]).split("train").logits, B)


finite = st.floats(-50, 50, width=32)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_probabilities_are_averaged_whatever_the_logits(tmp_path_factory, data) -> None:
    folder = tmp_path_factory.mktemp("any")
    logits = [data.draw(arrays(np.float32, (3, 4), elements=finite)) for _ in range(3)]
    weights = data.draw(st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any))
    members = [write(folder / str(k), values, names=()) for k, values in enumerate(logits)]
    mean = ensemble(members, folder / "mean", of="probabilities", weights=weights).split("train").logits
    expected = np.average(
        [softmax(values.astype(float), axis=1) for values in logits], axis=0, weights=weights
    )
    np.testing.assert_allclose(softmax(mean.astype(float), axis=1), expected, rtol=1e-4, atol=1e-12)
