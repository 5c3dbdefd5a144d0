"""What the documentation says is so: links lead somewhere, commands exist, numbers are in the pages that they cite."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from kdcache.study import load_study
from kdcache.study.estimates import TokenEstimate
from kdcache.study.methods import Regularizer
from kdcache.study.models import Lora, Student, Teacher
from kdcache.study.schema import Comparison, Study
from kdcache.study.task import Augment, Source, Task
from kdcache.study.tuning import Space, Tuning
from tests.study.samples import mistakes_in, write

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/**/*.md", "results/**/*.md", "data/models/*/README.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
MODULE = re.compile(r"python -m ((?:kdcache|stages|benchmarks|simulation|tools)[\w.]*)")
NUMBER = re.compile(r"(?<![\w.-])\d[\d,]*\.\d+")


def text_of(page: Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files(page: Path) -> None:
    targets = [link for link in LINK.findall(text_of(page)) if "://" not in link]
    missing = [target for target in targets if not (ROOT / page.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=str)
def test_modules_that_are_named_exist(page: Path) -> None:
    joined = re.sub(r"python -m\s+", "python -m ", text_of(page))  # a line may break there
    names = {name.rstrip(".") for name in MODULE.findall(joined)}
    assert [name for name in sorted(names) if importlib.util.find_spec(name) is None] == []


def test_every_page_of_docs_is_in_its_index() -> None:
    listed = {link for link in LINK.findall(text_of(Path("docs/README.md"))) if not link.startswith("..")}
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    pages = {page for page in pages if page != "README.md" and not page.startswith("site/")}
    assert listed == pages


TABLES = {
    "The study": (Study,),
    "tasks": (Task,),
    "source": (Source,),
    "augment": (Augment,),
    "teachers and students": (Teacher, Student),
    "lora": (Lora,),
    "cache": (TokenEstimate,),
    "regularizers and distillers": (Regularizer,),
    "comparison": (Comparison,),
    "tuning": (Tuning, Space),
}


# These have a default in the schema. The file has to have them, since dvc.yaml refers to them.
READ_BY_DVC = {("The study", "teachers"), ("The study", "distillers"), ("comparison", "baseline")}


def described_keys() -> dict[str, list[tuple[str, str]]]:
    """The keys of docs/params.md, each with its default, by the table's heading."""
    parts = re.split(r"(?m)^##+ (.+)\n", text_of(Path("docs/params.md")))
    return {
        heading: re.findall(r"(?m)^\| `(\w+)` \| (\S+) \|", text)
        for heading, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_every_key_of_params_yaml_has_its_line_with_its_default() -> None:
    described = described_keys()
    expected = {
        heading: [
            (key, "required" if (heading, key) in READ_BY_DVC else said(field))
            for model in models
            for key, field in model.model_fields.items()
        ]
        for heading, models in TABLES.items()
    }
    assert described.keys() == expected.keys()
    for heading, lines in expected.items():
        assert sorted(described[heading]) == sorted(set(lines)), heading


def said(field: FieldInfo) -> str:
    """A default as the page writes it."""
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return "—"
    return f"`{json.dumps(default)}`".replace('"', "")


MODEL = {"checkpoint": "data/models/m", "learning_rate": 1e-3, "epochs": 2, "batch_size": 8}
# Of every section, as few keys as it can have.
FEWEST: dict[str, Any] = {
    "seeds": 2,
    "tasks": {
        "digits": {
            "source": {"builtin": "digits"},
            "image": "image",
            "metrics": ["accuracy"],
            "augment": {"flip": 0.5},
        }
    },
    "teachers": {"big": MODEL},
    "students": {"small": {**MODEL, "lora": {"rank": 8, "alpha": 16}}},
    "regularizers": {"base": {}},
    "distillers": {},
    "comparison": {"baseline": "base", "margin": {"accuracy": 1.0}},
    "tuning": {"seeds": [100], "budget": 1, "space": {"all": {}}},
}
LANGUAGE: dict[str, Any] = {
    **FEWEST,
    "tasks": {
        "articles": {
            "kind": "language_modelling",
            "source": {"builtin": "bbc_articles"},
            "text": ["text"],
            "metrics": ["nll"],
            "max_length": 64,
        }
    },
    "teachers": {"big": {**MODEL, "cache": {}}},
    "comparison": {"baseline": "base", "margin": {"nll": 0.01}},
}
# The table's heading, a study, the section's place in it, and those of its keys that the page calls necessary in words
# alone, since they depend on others.
SECTIONS: list[tuple[str, dict[str, Any], str, set[str]]] = [
    ("The study", FEWEST, "", set()),
    ("tasks", FEWEST, "tasks.digits", {"image"}),
    ("tasks", LANGUAGE, "tasks.articles", {"kind", "text", "max_length"}),
    ("source", FEWEST, "tasks.digits.source", {"builtin"}),
    ("augment", FEWEST, "tasks.digits.augment", {"flip"}),
    ("teachers and students", FEWEST, "teachers.big", set()),
    ("teachers and students", FEWEST, "students.small", set()),
    ("lora", FEWEST, "students.small.lora", set()),
    ("cache", LANGUAGE, "teachers.big.cache", set()),
    ("regularizers and distillers", FEWEST, "regularizers.base", set()),
    ("comparison", FEWEST, "comparison", set()),
    ("tuning", FEWEST, "tuning", {"space"}),
]


def test_every_table_of_keys_is_looked_at() -> None:
    assert {heading for heading, *_ in SECTIONS} == described_keys().keys()


@pytest.mark.parametrize(
    ("heading", "study", "place", "in_words"), SECTIONS, ids=[place or "study" for _, _, place, _ in SECTIONS]
)
def test_a_key_can_be_left_out_unless_the_page_calls_it_required(
    tmp_path: Path, heading: str, study: dict[str, Any], place: str, in_words: set[str]
) -> None:
    required = {key for key, default in described_keys()[heading] if default == "required"}
    keys = place.split(".") if place else []
    given = set(reduce(getitem, keys, study))
    load_study(write(tmp_path, study))  # all keys that are not given can be left out
    assert required | in_words <= given
    for key in given - in_words:
        without = copy.deepcopy(study)
        del reduce(getitem, keys, without)[key]
        if key in required:
            path = ".".join([*keys, key])
            assert [
                mistake
                for mistake in mistakes_in(tmp_path, without)
                if mistake.startswith(f"{path}: missing")
            ]
        else:
            load_study(write(tmp_path, without))


def test_every_committed_study_is_in_the_list_of_results() -> None:
    listed = {link.split("/")[0] for link in LINK.findall(text_of(Path("results/README.md"))) if "/" in link}
    assert listed - {".."} == {path.name for path in (ROOT / "results").iterdir() if path.is_dir()}


def cited(page: Path) -> list[tuple[str, list[str]]]:
    """The paragraphs, list items and lines of tables that cite Markdown pages, each with these pages."""
    parts = re.split(r"\n\n|\n(?=- |\|)", text_of(page))
    found = [(part, [link for link in LINK.findall(part) if link.endswith(".md")]) for part in parts]
    return [(part, links) for part, links in found if links]


@pytest.mark.parametrize("page", [Path("README.md"), Path("results/README.md")], ids=str)
def test_numbers_are_in_the_pages_that_are_cited_beside_them(page: Path) -> None:
    checked = 0
    for part, links in cited(page):
        sources = " ".join(text_of(page.parent / link) for link in links)
        for number in NUMBER.findall(part):
            checked += 1
            assert number in NUMBER.findall(sources), f"{number}, in: {part}"
    assert checked > 5


def test_the_first_snippet_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from datasets import Dataset

    monkeypatch.chdir(tmp_path)
    rows = Dataset.from_list([{"text": f"text {i}", "label": i % 3} for i in range(20)])
    teacher = torch.nn.Sequential(torch.nn.EmbeddingBag(256, 8), torch.nn.Linear(8, 3)).eval()

    def tokenize(batch: list[dict[str, str]]) -> torch.Tensor:
        return torch.tensor([list(row["text"].ljust(8).encode()) for row in batch])

    names = {"rows": rows, "teacher": teacher, "tokenize": tokenize}
    snippet = re.search(r"^```python\n(.*?)^```$", text_of(Path("README.md")), re.M | re.S)
    assert snippet is not None
    exec(snippet[1], names)
    row = names["train"][0]
    with torch.no_grad():
        expected = teacher(tokenize([row]))[0]
    torch.testing.assert_close(torch.tensor(row["teacher_logits"]), expected)
    batch = {"label": torch.tensor([row["label"]]), "teacher_logits": expected[None]}
    loss = names["loss"](expected[None], batch)
    plain = torch.nn.functional.cross_entropy(expected[None], torch.tensor([row["label"]]))
    torch.testing.assert_close(loss, 0.5 * plain)  # alpha 0.5, and no divergence from the teacher itself
