"""A whole run: texts to a checkpoint folder with weights, tokenizer and card, resuming what an earlier one left."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from transformers import PreTrainedTokenizerFast

from kdcache.files import write_atomically
from kdcache.pretraining.architectures import save_checkpoint
from kdcache.pretraining.card import CARD, model_card
from kdcache.pretraining.errors import PretrainingError
from kdcache.pretraining.recipe import PretrainingRecipe
from kdcache.pretraining.sequences import digest, prepare_sequences
from kdcache.pretraining.state import Progress
from kdcache.pretraining.tokenizer_training import prepare_tokenizer
from kdcache.pretraining.trainer import Trainer

log = logging.getLogger(__name__)

STATE = "state.safetensors"


def pretrain(
    recipe: PretrainingRecipe,
    texts: Sequence[str],
    work_dir: Path,
    out_dir: Path,
    *,
    corpus: str,
    command: str,
    tokenizer_dir: Path | None = None,
) -> Progress:
    """Train on `texts`, resuming what `work_dir` holds, and save model, tokenizer and card in `out_dir`.

    `corpus` and `command` are for the card: what the texts are, and how to run this again.

    Raises:
        PretrainingError: texts, tokenizer or the saved state do not fit the recipe, another run is using
            `work_dir`, or the loss became infinite or NaN.
    """
    with _exclusive(work_dir):
        tokenizer = prepare_tokenizer(recipe, texts, work_dir, tokenizer_dir)
        trainer = _train(recipe, texts, tokenizer, work_dir)
        save_checkpoint(trainer.model, tokenizer, out_dir)
        card = model_card(out_dir.name, trainer, len(texts), corpus, command)
        write_atomically(out_dir / CARD, card.encode("utf-8"))
    return trainer.progress


@contextmanager
def _exclusive(directory: Path) -> Iterator[None]:
    """Refuse a second run in the same directory: the two would overwrite each other's state."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(directory / "lock", timeout=0):
            yield
    except Timeout as error:
        raise PretrainingError(
            f"{directory}: another run is using it; wait, stop it or name another"
        ) from error


def _train(
    recipe: PretrainingRecipe, texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, work_dir: Path
) -> Trainer:
    """The run's trainer, at its target. All of the recipe but `tokens` is the run's identity."""
    sequences, key = prepare_sequences(recipe, tokenizer, texts, work_dir)
    identity = digest([recipe.model_dump_json(exclude={"tokens"}), key])
    trainer = Trainer(recipe, tokenizer, sequences)
    trainer.resume(work_dir / STATE, identity)
    log.info(
        "training on %d sequences (%.1fM tokens), %d held out",
        len(trainer.training),
        trainer.training.size / 1e6,
        len(trainer.validation),
    )
    trainer.run(work_dir / STATE, identity)
    return trainer
