"""Seeds and rows as two sources of error."""

from pathlib import Path

from kdcache.report import rowwise
from kdcache.results.reading import read_metrics
from tests.report import samples


def test_a_row_per_comparison(tmp_path: Path) -> None:
    rows = rowwise.lines(read_metrics(samples.write_all(tmp_path)))
    assert len(rows) == 12
    first = rows[0]
    assert (first.group, first.regularizer) == ("bbc-headlines: bert-tiny", "label_smoothing")
    assert (first.sd_seeds, first.sd_rows, first.sd_total) == ("0.20", "0.50", "0.90")
    assert (first.gained, first.lost, first.p) == ("25.0", "21.2", "0.250")


def test_the_sentence_has_medians_and_says_which_is_larger(tmp_path: Path) -> None:
    said = rowwise.sentence(read_metrics(samples.write_all(tmp_path)))
    # the seeds' error is 0.2 in 8 comparisons, 0.8 in 4; the rows' 0.5 in all
    assert "other seeds would move a difference by 0.20 points and other rows by 0.50" in said
    assert "the rows matter more in 8 of 12" in said
    assert "1,000 validation rows" in said


def test_one_seed_has_no_seed_error(tmp_path: Path) -> None:
    folder = samples.write_all(tmp_path)
    samples.examples().assign(sd_seeds=None, note="one seed").to_csv(folder / "examples.csv", index=False)
    metrics = read_metrics(folder)
    assert rowwise.lines(metrics)[0].sd_seeds == "–"
    assert rowwise.sentence(metrics) == ""


def test_without_the_file_there_is_nothing(tmp_path: Path) -> None:
    metrics = read_metrics(samples.write(tmp_path))
    assert (rowwise.lines(metrics), rowwise.sentence(metrics)) == ([], "")
