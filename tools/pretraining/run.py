"""A whole run: from texts to a checkpoint folder with weights, tokenizer and card; an earlier run is resumed.

The first phase is language modelling. If the recipe says so, sentence-embedding distillation is the second.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from transformers import PreTrainedTokenizerFast

from kdcache.checkpoints import fingerprints
from kdcache.checkpoints.checkpoint import read_config
from kdcache.system.files import read_json, write_atomically, write_json
from tools.pretraining.architectures import save_checkpoint
from tools.pretraining.card import CARD, distilled_card, model_card, read_card
from tools.pretraining.distillation import Distiller, Student
from tools.pretraining.embeddings import cached_embeddings
from tools.pretraining.errors import PretrainingError
from tools.pretraining.pieces import sample_pieces
from tools.pretraining.recipe import PretrainingRecipe
from tools.pretraining.sequences import digest, prepare_sequences
from tools.pretraining.state import Progress
from tools.pretraining.tokenizer_training import prepare_tokenizer
from tools.pretraining.trainer import Trainer

log = logging.getLogger(__name__)

STATE = "state.safetensors"
DISTILLATION_STATE = "distillation.safetensors"
EMBEDDINGS = "embeddings"  # the folder of the sentence encoder's embeddings
KEPT = "kept.json"  # the folders that the run has written, and their weights' fingerprints
LANGUAGE_MODEL = "language-model"  # where the first of two phases saves its checkpoint


def pretrain(
    recipe: PretrainingRecipe,
    texts: Sequence[str],
    work_dir: Path,
    out_dir: Path,
    *,
    corpus: str,
    command: str,
    tokenizer_dir: Path | None = None,
    start_dir: Path | None = None,
    teacher_dir: Path | None = None,
    keep_at: Sequence[int] = (),
) -> Progress:
    """Train on `texts`, resuming what `work_dir` holds, and save model, tokenizer and card in `out_dir`.

    `corpus` and `command` are for the card: what the texts are, and how to repeat the run. A recipe with
    `distillation` needs `teacher_dir`, the sentence encoder. With `start_dir`, a finished checkpoint, language
    modelling is left out. `keep_at` are amounts of tokens: when language modelling has seen one, the model as it is
    then is saved in a folder of its own, see `kept_folder`.

    Raises:
        PretrainingError: texts, tokenizer, start, `keep_at` or the saved state do not fit the recipe, another run is
            using `work_dir`, or the loss became infinite or NaN.
        ModelError: start or teacher is no model.
    """
    _check_folders(recipe, start_dir, teacher_dir)
    _check_kept(recipe, start_dir, keep_at)
    kept = sorted((recipe.steps_for(tokens), kept_folder(out_dir, tokens)) for tokens in keep_at)
    with _exclusive(work_dir):
        if recipe.distillation is None:
            return _model_language(recipe, texts, tokenizer_dir, work_dir, out_dir, kept, corpus, command)
        if start_dir is None:
            start_dir = work_dir / LANGUAGE_MODEL
            _model_language(recipe, texts, tokenizer_dir, work_dir, start_dir, kept, corpus, command)
        assert teacher_dir is not None  # checked above
        return _distil(recipe, texts, start_dir, teacher_dir, work_dir, out_dir, command)


def kept_folder(out_dir: Path, tokens: int) -> Path:
    """The folder of the model as it was after `tokens`: `OUT-at-TOKENS`, beside the run's own `out_dir`."""
    return out_dir.with_name(f"{out_dir.name}-at-{tokens}")


def _check_folders(recipe: PretrainingRecipe, start_dir: Path | None, teacher_dir: Path | None) -> None:
    if recipe.distillation is None and (start_dir or teacher_dir):
        raise PretrainingError(
            "the recipe has no `distillation`, so a start or a teacher means nothing to it"
        )
    if recipe.distillation is not None and teacher_dir is None:
        raise PretrainingError(
            f"the recipe distils {recipe.distillation.teacher}: name its folder (--teacher FOLDER)"
        )
    if start_dir is None:
        return
    config = read_config(start_dir)
    shape = [config.get(key) for key in ("model_type", "num_hidden_layers", "hidden_size")]
    if shape != [recipe.family, recipe.layers, recipe.hidden]:
        raise PretrainingError(
            f"{start_dir}: expected the recipe's {recipe.family}, {recipe.layers} layers, hidden {recipe.hidden}; "
            f"found {', '.join(map(str, shape))}"
        )


def _check_kept(recipe: PretrainingRecipe, start_dir: Path | None, keep_at: Sequence[int]) -> None:
    if keep_at and start_dir is not None:
        raise PretrainingError(
            "start and keep_at: language modelling is left out with a start, so nothing of it can be kept"
        )
    for tokens in keep_at:
        if not 0 < recipe.steps_for(tokens) < recipe.steps:
            raise PretrainingError(
                f"keep_at: expected amounts above 0 that the run reaches before its end ({recipe.tokens:,} tokens, "
                f"{recipe.tokens_per_step:,} a step), found {tokens:,}; the end is saved without being named"
            )


def _model_language(
    recipe: PretrainingRecipe,
    texts: Sequence[str],
    tokenizer_dir: Path | None,
    work_dir: Path,
    out_dir: Path,
    kept: Sequence[tuple[int, Path]],
    corpus: str,
    command: str,
) -> Progress:
    """Train one language model, and save it at the steps of `kept` (ascending) and, at the end, in `out_dir`."""
    tokenizer = prepare_tokenizer(recipe, texts, work_dir, tokenizer_dir)
    trainer, identity = _resumed(recipe, texts, tokenizer, work_dir)
    for step, folder in [*_still_to_come(kept, trainer.progress, work_dir), (recipe.steps, out_dir)]:
        # The state is written before the checkpoint: a run that is killed in between resumes at this very step.
        trainer.run(work_dir / STATE, identity, until=step)
        save_checkpoint(trainer.model, tokenizer, folder)
        card = model_card(folder.name, trainer, len(texts), corpus, command)
        write_atomically(folder / CARD, card.encode("utf-8"))
        write_json(work_dir / KEPT, _kept_weights(work_dir) | {folder.name: fingerprints.of_weights(folder)})
    return trainer.progress


def _still_to_come(kept: Sequence[tuple[int, Path]], at: Progress, work_dir: Path) -> list[tuple[int, Path]]:
    """The amounts that a resumed run has not reached yet; the folders of the others must exist."""
    for step, folder in kept:
        if step < at.step and not _is_there(folder, work_dir):
            raise PretrainingError(
                f"{folder}: is not what this run was after {step:,} steps, and the run is past it, at step "
                f"{at.step:,}. Keep only later amounts, or start again in another work directory"
            )
    return [(step, folder) for step, folder in kept if step >= at.step]


def _is_there(folder: Path, work_dir: Path) -> bool:
    """Whether this run has written the folder, and nobody has changed it since."""
    return (folder / CARD).is_file() and _kept_weights(work_dir).get(folder.name) == fingerprints.of_weights(
        folder
    )


def _kept_weights(work_dir: Path) -> dict[str, str]:
    return dict(read_json(work_dir / KEPT)) if (work_dir / KEPT).exists() else {}


def _distil(
    recipe: PretrainingRecipe,
    texts: Sequence[str],
    start_dir: Path,
    teacher_dir: Path,
    work_dir: Path,
    out_dir: Path,
    command: str,
) -> Progress:
    assert recipe.distillation is not None
    card = read_card(start_dir)  # a missing card shows before the work, not after it
    tokenizer = prepare_tokenizer(recipe, texts, work_dir, start_dir)
    pieces = sample_pieces(texts, recipe.distillation)
    embeddings, key = cached_embeddings(teacher_dir, pieces, work_dir / EMBEDDINGS)
    identity = digest([recipe.distillation.model_dump_json(), fingerprints.of_weights(start_dir), key])
    student = Student(start_dir, embeddings.shape[1], recipe.distillation.seed)
    reader = copy.deepcopy(tokenizer)  # a tokenizer keeps, and saves, how it was last asked to truncate
    token_ids = reader(pieces, truncation=True, max_length=recipe.sequence_length)["input_ids"]
    distiller = Distiller(recipe.distillation, student, token_ids, embeddings, tokenizer.pad_token_id)
    distiller.resume(work_dir / DISTILLATION_STATE, identity)
    distiller.run(work_dir / DISTILLATION_STATE, identity)
    save_checkpoint(student.encoder, tokenizer, out_dir)
    write_atomically(out_dir / CARD, distilled_card(out_dir.name, card, distiller, command).encode("utf-8"))
    return distiller.progress


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


def _resumed(
    recipe: PretrainingRecipe, texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, work_dir: Path
) -> tuple[Trainer, str]:
    """The run's trainer, resumed from its state, and the run's identity: the recipe of its phase without `tokens`."""
    sequences, key = prepare_sequences(recipe, tokenizer, texts, work_dir)
    identity = digest([recipe.model_dump_json(exclude={"tokens", "distillation"}), key])
    trainer = Trainer(recipe, tokenizer, sequences)
    trainer.resume(work_dir / STATE, identity)
    log.info(
        "training on %d sequences (%.1fM tokens), %d held out",
        len(trainer.training),
        trainer.training.size / 1e6,
        len(trainer.validation),
    )
    return trainer, identity
