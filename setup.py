"""What pyproject.toml cannot say: the wheel has, for `kdcache init`, the repository's own pipeline as a template."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# 21 MB with two small pre-trained BERTs and two GPT-2s: a first project needs no network. The other checkpoints of
# data/models are for the studies of a clone.
TEMPLATE = (
    *(
        "dvc.yaml",
        "params.yaml",
        "studies/paper.yaml",
        "studies/two-layers.yaml",
        "studies/language-model.yaml",
        "stages/*.py",
        ".dvcignore",
        ".dvc/plots/*.json",
    ),
    *(
        f"data/models/{name}/*"
        for name in ("bert-small", "bert-micro", "gpt2-small", "gpt2-tiny", "resnet-tiny", "vit-tiny")
    ),
)


class WithTemplate(build_py):
    """Copies the template's files into the package."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # then the files are beside the package
            return
        here = Path(__file__).parent
        for source in (path for pattern in TEMPLATE for path in sorted(here.glob(pattern))):
            copy = Path(self.build_lib, "kdcache/repro/project", source.relative_to(here))
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)


setup(cmdclass={"build_py": WithTemplate})
