"""Masked and causal language modelling from scratch, for the small embedded checkpoints.

A recipe (architecture, data layout, optimizer, token budget) and some texts become a folder that
`AutoModel*.from_pretrained` and `AutoTokenizer.from_pretrained` read: a BERT, RoBERTa or GPT-2 of a few million
parameters, made on one CPU thread. A run can be stopped at any time: everything random is derived from (seed,
step), so a resumed run equals an uninterrupted one. See docs/pretraining.md.

recipe.py declares a run; texts.py, tokenizer_training.py and sequences.py make its data. masking.py chooses what a step
must predict, architectures.py and forward.py compute the predictions, trainer.py and loop.py train. state.py keeps the
progress, card.py documents the run, and run.py does all of it. distillation.py, pieces.py and embeddings.py are the
second phase.
"""

from tools.pretraining.card import add_to_card
from tools.pretraining.errors import PretrainingError
from tools.pretraining.recipe import Family, PretrainingRecipe, load_recipe
from tools.pretraining.run import pretrain
from tools.pretraining.sequences import pack_sequences
from tools.pretraining.state import Progress
from tools.pretraining.texts import read_hub_texts, read_texts
from tools.pretraining.tokenizer_training import train_tokenizer
from tools.pretraining.trainer import Trainer

__all__ = [
    "Family",
    "PretrainingError",
    "PretrainingRecipe",
    "Progress",
    "Trainer",
    "add_to_card",
    "load_recipe",
    "pack_sequences",
    "pretrain",
    "read_hub_texts",
    "read_texts",
    "train_tokenizer",
]
