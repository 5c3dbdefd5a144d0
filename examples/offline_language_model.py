"""Distil a causal language model offline, with the transformers Trainer: the teacher runs once, before training.

    python examples/offline_language_model.py FOLDER_FOR_THE_CACHE [CHECKPOINT]

It is run in a clone of kdcache, which has a small checkpoint, or with a causal language model of your own.
"""

import sys
from pathlib import Path

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, TrainingArguments, set_seed

import kdcache
from kdcache.hf import KDTrainer

folder, *other = sys.argv[1:] or sys.exit(__doc__)
CHECKPOINT = other[0] if other else Path(__file__).parents[1] / "data" / "models" / "gpt2-tiny"

set_seed(0)
text = " ".join(f"{n} green bottles hanging on the wall, {n} green bottles." for n in range(100))
ids = AutoTokenizer.from_pretrained(CHECKPOINT)(text)["input_ids"]
rows = [{"input_ids": ids[k : k + 64]} for k in range(0, len(ids) - 63, 64)]
teacher = AutoModelForCausalLM.from_pretrained(CHECKPOINT)
cache = kdcache.write_token_logits(teacher, rows, folder, kdcache.Threshold(1 / 50, draws=4))
student = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(CHECKPOINT, n_layer=1))
arguments = TrainingArguments(folder + "-run", num_train_epochs=4, learning_rate=3e-3, logging_steps=1)
KDTrainer(student, arguments, train_dataset=rows, cache=cache, alpha=0.9).train()
