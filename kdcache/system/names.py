"""What a name in params.yaml may be: it becomes a folder, a part of a DVC stage, and a key on the command line."""

from __future__ import annotations

import re

LONGEST_NAME = (
    100  # a folder of a data set, a model and a method has to be a path; a stage has all three in its name
)
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{LONGEST_NAME - 1}}}")
SETTLED = "settle.json"  # beside params.yaml: how many seeds each configuration of a study with looks has
TUNED = "tuned.json"  # beside params.yaml: the values that stage `tune` chose
