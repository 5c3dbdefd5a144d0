"""What a name in params.yaml may be: it becomes a folder, a part of a DVC stage, and a key on the command line."""

from __future__ import annotations

import re

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
