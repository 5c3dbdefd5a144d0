"""Which names params.yaml may have: each becomes a folder, a part of a DVC stage's name, and a command-line key."""

from __future__ import annotations

import re

LONGEST_NAME = (
    100  # characters: a trial's path and its stage's name each hold three names (task, model, method)
)
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{LONGEST_NAME - 1}}}")
SETTLED = "settle.json"  # beside params.yaml: how many seeds each configuration of a study with looks has
TUNED = "tuned.json"  # beside params.yaml: the values that stage `tune` chose
TUNE = "tune"  # the stage that writes it
VIEWS = "views"  # beside the splits in a teacher's folder of logits: the cache of the augmented views
