"""What a checkpoint's card says, and its later sections."""

from __future__ import annotations

import pytest

from tools.pretraining import PretrainingError, add_to_card
from tools.pretraining.card import read_row


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


def test_its_numbers_can_be_read(saved):
    text = (saved / "bert" / "README.md").read_text()
    assert read_row(text, "tokens seen") == 384
    assert f"| held-out loss | {read_row(text, 'held-out loss'):.3f} nats" in text
    assert read_row("# x\n\n| tokens seen | 50,001,920 (3.9 epochs) |\n", "tokens seen") == 50_001_920
    with pytest.raises(PretrainingError, match=r"the card '# bert' has no row 'tokeniser' that begins"):
        read_row(text, "tokeniser")
    with pytest.raises(PretrainingError, match="begins with a number"):
        read_row(text, "architecture")


def test_a_checkpoint_without_one_is_refused(tmp_path):
    with pytest.raises(PretrainingError, match="no model card"):
        add_to_card(tmp_path, "Fine-tuned", "x")
