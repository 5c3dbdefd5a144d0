"""Distil a causal language model offline with TRL's SFTTrainer: the teacher runs once, over the trainer's own rows.

    python examples/trl_sft.py FOLDER_FOR_THE_CACHE [CHECKPOINT]

It is run in a clone of kdcache, which has a small checkpoint, or with a causal language model of your own.
"""

import sys
from pathlib import Path

from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

import kdcache

folder, *other = sys.argv[1:] or sys.exit(__doc__)
CHECKPOINT = other[0] if other else Path(__file__).parents[1] / "data" / "models" / "gpt2-tiny"


class OfflineTrainer(SFTTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not model.training:  # rows of evaluation are not in the cache
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        soft = cache.match(inputs, epoch=int(self.state.epoch or 0)).to(model.device)
        outputs = model(inputs["input_ids"])
        loss = kdcache.kd_token_loss(outputs.logits, soft, alpha=0.9)
        if outputs.get("aux_loss") is not None:  # it balances a mixture of experts (output_router_logits)
            loss = loss + self.model.config.router_aux_loss_coef * outputs.aux_loss
        tokens = soft.loss.sum() * self.accelerator.num_processes  # whose gradients are averaged
        return loss * tokens / (num_items_in_batch or tokens)


rows = Dataset.from_dict({"text": [f"{n} green bottles hanging on the wall. " * 3 for n in range(40)]})
student = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(CHECKPOINT, n_layer=1))
teacher = AutoModelForCausalLM.from_pretrained(CHECKPOINT)
options = SFTConfig(folder + "-run", num_train_epochs=4, learning_rate=3e-3, logging_steps=1, bf16=False)
trainer = OfflineTrainer(student, options, train_dataset=rows)
cache = kdcache.write_token_logits(teacher, trainer.train_dataset, folder, kdcache.Threshold(1 / 50))
trainer.train()
