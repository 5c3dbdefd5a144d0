"""The caches in a teacher's folder of logits.

The folder itself is a cache (PLAIN: the labelled rows, not augmented). Sub-folders may hold more caches: of the train
rows in each augmented view, and of the rows without labels (in each view, if there are views). They are separate. So
trials that do not use them do not depend on them.
"""

from __future__ import annotations

from kdcache.system import names

PLAIN, VIEWS, UNLABELLED = ".", names.VIEWS, "unlabelled"
BESIDE = (VIEWS, UNLABELLED)
