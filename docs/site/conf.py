"""Sphinx's settings: the pages of this repository, and a reference of the library. `make docs` builds the site."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project, release = "kdcache", SETTINGS["version"]
author = copyright = SETTINGS["authors"][0]["name"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
include_patterns = [
    "docs/site/index.md", "docs/site/reference.md", "docs/*.md", "docs/measured/*.md", "README.md", "CHANGELOG.md",
    "CONTRIBUTING.md", "results/README.md", "results/*/README.md",
]  # fmt: skip
root_doc = "docs/site/index"
html_theme, html_title = "furo", f"kdcache {release}"
html_show_sourcelink = False
myst_heading_anchors = 4  # links to headings, as GitHub makes them
myst_enable_extensions = ["attrs_inline"]
suppress_warnings = [
    "myst.header",
    "myst.xref_missing",
]  # links to folders and files; a test checks all links
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
