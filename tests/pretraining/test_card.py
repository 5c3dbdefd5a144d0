"""What a checkpoint's card says, and its later sections."""

from __future__ import annotations

import pytest

from kdcache.pretraining import PretrainingError, add_to_card


def test_it_says_what_was_run_and_takes_sections(saved, tmp_path):
    text = (saved / "bert" / "README.md").read_text()
    assert "384 " in text
    assert "300 documents" in text
    assert "--texts corpus.parquet" in text
    assert str(saved) not in text
    (tmp_path / "README.md").write_text(text)
    add_to_card(tmp_path, "Fine-tuned", "old")
    add_to_card(tmp_path, "More", "kept")
    add_to_card(tmp_path, "Fine-tuned", "new")
    assert (tmp_path / "README.md").read_text() == text + "\n## Fine-tuned\n\nnew\n\n## More\n\nkept\n"


def test_a_checkpoint_without_one_is_refused(tmp_path):
    with pytest.raises(PretrainingError, match="no model card"):
        add_to_card(tmp_path, "Fine-tuned", "x")
