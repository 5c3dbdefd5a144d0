"""README.md of a kept student: what it is, its scores, where it comes from, and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcache.system.files import read_json
from kdcache.system.versions import installed
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.result import TrialResult


def model_card(result: TrialResult, task: PreparedTask, scores: Mapping[str, float], folder: Path) -> str:
    """The card, in Markdown, with the metadata that the Hugging Face hub reads.

    Args:
        scores: the trial's scores, as fractions 0..1; see `trial_scores`.
        folder: the saved model's folder.
    """
    pipeline = "text-generation" if task.card.language_modelling else f"{task.card.modality}-classification"
    kdcache = installed(["kdcache"]).get("kdcache", "unknown")
    facts = {
        "task": result.task,
        "data fingerprint": task.card.fingerprint,
        "started from": f"{result.checkpoint}, {result.init}"
        + (f", commit {result.commit}" if result.commit else ""),
        "method": result.regularizer,
        "teacher": result.teacher or "none",
        "seed": str(result.seed),
        "trial identity": result.identity,
        "trained with": f"kdcache {kdcache}, "
        + ", ".join(" ".join(version) for version in result.versions.items()),
        "computed in": f"{result.precision} on {result.device}",
    }
    rows = "documents" if task.card.language_modelling else "rows"
    blocks = [
        f"---\nlibrary_name: transformers\npipeline_tag: {pipeline}\ntags: [kdcache]\n---",
        f"# {result.student}, {result.regularizer}, on {result.task}",
        f"A {result.family} model, fine-tuned in a study with kdcache.",
        f"## Scores\n\nOn the {rows} of validation, as in the study's metrics/trials.csv"
        + (" (a score's ending names a further split)." if len(task.card.evaluated) > 1 else "."),
        _table(("metric", "score"), {name: f"{value:.6g}" for name, value in scores.items()}),
        "## Use",
        f"```python\n{_example(pipeline, task, folder)}\n```",
        "## Where it comes from",
        _table(("", ""), facts),
        "The method's parameters, and the student's:",
        *(f"```json\n{json.dumps(result.params[part])}\n```" for part in ("regularizer", "student")),
        *_labels(task.card.label_names),
    ]
    return "\n\n".join(blocks) + "\n"


def _table(head: tuple[str, str], rows: Mapping[str, str]) -> str:
    lines = [head, ("---", "---"), *rows.items()]
    return "\n".join(f"| {first} | {_cell(second)} |" for first, second in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _labels(names: list[str]) -> list[str]:
    return [f"Its labels, in the order of its logits:\n\n```json\n{json.dumps(names)}\n```"] if names else []


def _example(pipeline: str, task: PreparedTask, folder: Path) -> str:
    """Code that uses the model with the same inputs as in training."""
    start = "from transformers import pipeline"
    if task.card.modality == "image":
        if read_json(folder / "config.json").get("num_channels", 3) == 3:
            return f'{start}\n\nclassify = pipeline("{pipeline}", "FOLDER")\nclassify("image.png")'
        return (
            f"import numpy as np\nfrom PIL import Image\n{start}\n\n"
            f'classify = pipeline("{pipeline}", "FOLDER")\n'
            "# its images are grey: a pipeline makes every picture RGB, but leaves an array [height, width, 1]\n"
            'classify(np.asarray(Image.open("image.png").convert("L"))[..., None])'
        )
    if task.card.language_modelling:
        return f'{start}\n\ncontinue_text = pipeline("{pipeline}", "FOLDER")\ncontinue_text("The government said")'
    row = '"a text"'
    if "text_pair" in task.rows("validation").column_names:
        row = f'{{"text": "one text", "text_pair": "{_between(read_json(folder / "tokenizer_config.json"))}another"}}'
    load = f'classify = pipeline("{pipeline}", "FOLDER", truncation=True)  # cut after {task.card.max_length} tokens'
    return f"{start}\n\n{load}\nclassify({row})"


def _between(settings: Mapping[str, Any]) -> str:
    """The separator before a second text, if the tokenizer puts none between two texts (GPT-2); see `encode_texts`."""
    return "" if settings.get("sep_token") else _token(settings.get("eos_token"))


def _token(value: Any) -> str:
    """A special token from a tokenizer's settings; there it is a text, or an object that holds a text."""
    return str(value.get("content", "") if isinstance(value, dict) else value or "")
