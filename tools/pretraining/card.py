"""The model card, README.md: what a checkpoint is, how it came to be, and sections added later."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import torch

from kdcache.system.devices import machine
from kdcache.system.files import write_atomically
from tools.pretraining.distillation import Distiller
from tools.pretraining.errors import PretrainingError
from tools.pretraining.trainer import Trainer

CARD = "README.md"
DISTILLED = "Distillation of sentence embeddings"
MEASURED = "Fine-tuned"  # the section that tools/checkpoints.py writes


def model_card(name: str, trainer: Trainer, documents: int, corpus: str, command: str) -> str:
    """A README.md that says what the checkpoint is and how it came to be."""
    family = trainer.recipe.family
    objective = "causal" if family == "gpt2" else "masked"
    rows = {**_model_rows(trainer), **_training_rows(trainer, f"{corpus}: {documents:,} documents")}
    return (
        f"# {name}\n\nA small {family} checkpoint, trained from scratch by {objective} language "
        f"modelling.\n\n{_table(rows)}\n\n## Made with\n\n```\n{command}\n```\n"
    )


def _model_rows(trainer: Trainer) -> dict[str, str]:
    recipe = trainer.recipe
    size = sum(p.numel() for p in trainer.model.parameters())
    kind = "WordPiece" if recipe.family == "bert" else "byte-level BPE"
    layers = "1 layer" if recipe.layers == 1 else f"{recipe.layers} layers"
    return {
        "architecture": f"{recipe.family}, {layers}, hidden {recipe.hidden}, "
        f"{recipe.heads} heads, {size / 1e6:.1f}M parameters, saved as fp16",
        "tokenizer": f"{kind}, {recipe.vocab_size} tokens, lowercased, "
        f"at most {recipe.sequence_length} positions",
    }


def _training_rows(trainer: Trainer, data: str) -> dict[str, str]:
    recipe, at, corpus_tokens = trainer.recipe, trainer.progress, trainer.training.size
    seen = at.step * recipe.tokens_per_step
    on_the_way = {"part of": _rest_of_the_run(trainer)} if at.step < at.steps else {}
    return {
        "data": f"{data}, {corpus_tokens / 1e6:.1f}M tokens for training",
        "tokens seen": f"{seen:,} ({seen / corpus_tokens:.1f} epochs)",
        "steps": f"{at.step:,} of {recipe.batch_size} x {recipe.sequence_length} tokens, AdamW, "
        f"peak learning rate {recipe.learning_rate:g}, seed {recipe.seed}, in {recipe.precision}",
        **on_the_way,
        "held-out loss": f"{at.validation[-1][1]:.3f} nats a predicted token "
        f"({len(trainer.validation):,} sequences)",
        "time": f"{at.seconds:,.0f} s on {machine(torch.get_num_threads())}",
        "date": date.today().isoformat(),
    }


def _rest_of_the_run(trainer: Trainer) -> str:
    """A note for a checkpoint kept during a run: how many steps were left, and that the rate had not decayed."""
    at = trainer.progress
    return (
        f"a run of {at.steps:,} steps ({at.steps * trainer.recipe.tokens_per_step:,} tokens) that went on; "
        f"its learning rate falls from step {at.decay_start:,} on"
    )


def distilled_card(name: str, start: str, distiller: Distiller, command: str) -> str:
    """The card of the checkpoint that distillation started from, with a section on the distillation.

    Args:
        start: that card. Its accuracies are left out, since they belong to the earlier weights.
    """
    recipe, at = distiller.recipe, distiller.progress
    intro, *sections = start.split("\n## ")
    _, _, intro = intro.partition("\n")
    kept = [section.strip("\n") for section in sections if not section.startswith(MEASURED)]
    rows = {
        "teacher": f"{recipe.teacher}: mean over tokens, length 1",
        "data": f"{len(distiller.token_ids):,} pieces of 3 to {recipe.longest_piece} words of the same texts, "
        f"{len(distiller.validation):,} of them held out",
        "loss": "1 - cosine between the teacher's embedding and a linear projection (not kept) of the pooler's output",
        "steps": f"{at.step:,} of {recipe.batch_size} pieces, {recipe.epochs} epochs, AdamW, "
        f"peak learning rate {recipe.learning_rate:g}, seed {recipe.seed}",
        "held-out loss": f"{at.validation[-1][1]:.3f}",
        "time": f"{at.seconds:,.0f} s on {machine(torch.get_num_threads())}, without the teacher's embeddings",
        "date": date.today().isoformat(),
    }
    opening = (
        f"# {name}\n\n**A distilled encoder**: it was pre-trained by language modelling, as the first table says, "
        f'and has then learned the sentence embeddings of {recipe.teacher} (section "{DISTILLED}"). The language '
        "modelling head is not in the checkpoint; the pooler, which a classification head reads, is.\n"
    )
    added = f"{DISTILLED}\n\n{_table(rows)}\n\n```\n{command}\n```"
    return "\n\n## ".join([f"{opening}{intro.rstrip()}", *kept, added]) + "\n"


def _table(rows: dict[str, str]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in rows.items())])


def read_card(out_dir: Path) -> str:
    """A checkpoint's card; PretrainingError if it has none."""
    path = out_dir / CARD
    if not path.is_file():
        raise PretrainingError(f"{path}: no model card; pre-train the checkpoint first")
    return path.read_text(encoding="utf-8")


def read_row(card: str, key: str) -> float:
    """The first number in a row of a card's table: 1001472 for `| tokens seen | 1,001,472 (0.1 epochs) |`."""
    row = re.search(rf"^\| {re.escape(key)} \| ([\d,]+(?:\.\d+)?)", card, re.MULTILINE)
    if row is None:
        raise PretrainingError(
            f"the card {card.splitlines()[0]!r} has no row {key!r} that begins with a number; write it again with "
            "`tools.pretrain`"
        )
    return float(row[1].replace(",", ""))


def add_to_card(out_dir: Path, heading: str, markdown: str) -> None:
    """Append the section `## heading` to a checkpoint's card, or replace the one of that name."""
    kept, *sections = read_card(out_dir).split("\n## ")
    new = f"{heading}\n\n{markdown.strip()}\n"
    same = [i for i, section in enumerate(sections) if section.split("\n", 1)[0].strip() == heading]
    if same:
        sections[same[0]] = new
    else:
        sections.append(new)
    text = "\n\n## ".join(part.strip("\n") for part in [kept, *sections]) + "\n"
    write_atomically(out_dir / CARD, text.encode("utf-8"))
