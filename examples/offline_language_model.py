"""Distil a causal language model offline, with the transformers Trainer: the teacher runs once, before training."""

import sys
from pathlib import Path

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, TrainingArguments, set_seed

import kdcache
from kdcache.hf import KDTrainer

CHECKPOINT = Path(__file__).parents[1] / "data" / "models" / "gpt2-tiny"  # or any other causal language model

set_seed(0)
text = " ".join(f"{n} green bottles hanging on the wall, {n} green bottles." for n in range(100))
ids = AutoTokenizer.from_pretrained(CHECKPOINT)(text)["input_ids"]
rows = [{"input_ids": ids[k : k + 64]} for k in range(0, len(ids) - 63, 64)]
teacher = AutoModelForCausalLM.from_pretrained(CHECKPOINT)
cache = kdcache.write_token_logits(teacher, rows, sys.argv[1], kdcache.Threshold(1 / 50, draws=4))
student = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(CHECKPOINT, n_layer=1))
arguments = TrainingArguments(sys.argv[1] + "-run", num_train_epochs=4, learning_rate=3e-3, logging_steps=1)
KDTrainer(student, arguments, train_dataset=rows, cache=cache, alpha=0.9).train()
