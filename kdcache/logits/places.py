"""Which caches a folder of logits holds.

It is a cache itself (PLAIN: the labelled rows as they are) and may hold further ones: of the train rows in each
augmented view; of the rows without labels (in each view, if any). They are apart so that what does not use them does
not depend on them.
"""

from __future__ import annotations

PLAIN, VIEWS, UNLABELLED = ".", "views", "unlabelled"
BESIDE = (VIEWS, UNLABELLED)
