"""Write the distributions of a teacher, or of a baseline for Self-KD, as its `cache` in params.yaml says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from kdcache.logits import Fingerprints
from kdcache.logits.tokens import write_token_logits
from kdcache.modelling.tokens.inputs import DocumentInputs
from kdcache.study import Model
from kdcache.trials.tokens.checking import estimator_of


def write_distributions(
    network: Any,
    inputs: DocumentInputs,
    splits: Sequence[str],
    model: Model,
    folder: Path,
    fingerprints: Fingerprints,
    run: str,
) -> None:
    """Write the distributions of a trained model at every token of some splits, in float32.

    A cache that is there, is whole and has the same fingerprints stays as it is.
    """
    device = PartialState().device
    write_token_logits(
        network.to(device).eval(),
        {split: inputs.packed(split).rows for split in splits},
        folder,
        estimator_of(model.estimate),
        temperature=model.estimate.temperature,
        batch_size=model.batch_size,
        vocabulary=inputs.vocabulary,
        tokenizer=inputs.preprocessor.tokenizer,
        fingerprints=fingerprints,
        run=run,
        device=device,
        overwrite=True,
    )
