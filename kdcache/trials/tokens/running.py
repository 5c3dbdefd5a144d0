"""Run one trial of a language model, or make its teacher: train it, and keep its likelihood of every token."""

from __future__ import annotations

from typing import Any

import numpy as np
from accelerate import PartialState

from kdcache.logits.tokens.rows import Ragged
from kdcache.modelling.tokens.inputs import DocumentInputs, open_documents
from kdcache.modelling.tokens.likelihoods import token_likelihoods
from kdcache.study import Model, Regularizer
from kdcache.system.files import remove
from kdcache.training.loop import Training
from kdcache.training.tokens.learning import learn_tokens
from kdcache.training.watching import Watch
from kdcache.trials.identity import logit_fingerprints
from kdcache.trials.layout import LOGITS, RESULT
from kdcache.trials.likelihoods import Documents, path_of, write_documents
from kdcache.trials.plan import TeacherPlan, TrialPlan
from kdcache.trials.scores import named, score_documents
from kdcache.trials.tokens.caching import write_distributions


def run_on_documents(plan: TrialPlan, watch: Watch) -> tuple[DocumentInputs, Any, Training]:
    """Train one trial and keep its likelihoods. If Self-KD learns from it, its own distributions are kept too."""
    inputs = open_documents(plan.task_folder, plan.model, plan.data)
    trained, run = learn_tokens(inputs, plan.model, plan.method, plan.seed, plan.soft_labels, watch)
    by_split = {split: documents_of(trained, inputs, split, plan.model) for split in plan.evaluated}
    if PartialState().is_main_process:
        remove(plan.folder / RESULT)
    if plan.keep_train_logits:
        prints = logit_fingerprints(inputs.card, inputs.checkpoint, weights=plan.identity)
        write_distributions(trained, inputs, ["train"], plan.model, plan.folder / LOGITS, prints, plan.name)
    if PartialState().is_main_process:
        for split, documents in by_split.items():
            write_documents(path_of(plan.folder, split), documents)
    return inputs, trained, run


def documents_of(network: Any, inputs: DocumentInputs, split: str, model: Model) -> Documents:
    """A trained model's likelihoods of a split's documents."""
    packed = inputs.packed(split)
    likelihoods = token_likelihoods(network, packed, model.batch_size)
    lengths = np.bincount(packed.document, minlength=packed.documents)
    hashes = inputs.task.rows(split, ["row_hash"])["row_hash"].to_numpy()
    columns = (likelihoods.nll, likelihoods.confidence, likelihoods.right)
    return Documents(hashes, *(Ragged(column, lengths) for column in columns))


def teach_on_documents(
    plan: TeacherPlan, watch: Watch
) -> tuple[DocumentInputs, Any, Training, dict[str, float]]:
    """Fine-tune a teacher (for no epoch at all, if so declared). Return its scores too."""
    inputs = open_documents(plan.task_folder, plan.model, plan.data)
    trained, run = learn_tokens(inputs, plan.model, Regularizer(), plan.model.seed, watch=watch)
    scores = {}
    for split in inputs.card.evaluated:
        documents = documents_of(trained, inputs, split, plan.model)
        for metric, value in score_documents(documents, inputs.task, split).items():
            scores[named(metric, split)] = value
    return inputs, trained, run, scores
