"""What a saved model's folder says of it."""

from __future__ import annotations

import transformers

from kdcache.trials.saving import forget_old_head


def test_what_was_applied_to_an_old_heads_logits_is_forgotten() -> None:
    config = transformers.BertConfig(function_to_apply="sigmoid", num_labels=3)
    forget_old_head(config)
    forget_old_head(config)  # there is nothing left to forget
    assert "function_to_apply" not in config.to_dict()
    assert config.num_labels == 3
