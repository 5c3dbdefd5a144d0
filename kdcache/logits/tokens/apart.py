"""Whether a model keeps the documents of a row apart. It is tried out, because some models silently do not.

A model of transformers is given positions that begin anew in each document, and no mask. Most families then let no
document see another: GPT-2, Llama, Mistral, GPT-NeoX. OPT, BLOOM, Falcon and Mamba take the positions too, but let each
document see those before it in its row. So do flash attention with several rows in a batch, and layers that hand a
state or a convolution on from token to token, whatever family they are in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kdcache.logits.tokens.inputs import Sequences
from kdcache.logits.tokens.rows import Ragged

if TYPE_CHECKING:
    from torch import Tensor

Ints = npt.NDArray[np.int64]
# What a model gives for n sequences of L tokens: [n, L, ...], logits, or the values that a head makes logits of.
Run = Callable[[Sequences], "Tensor"]
LENGTH = 8  # tokens of the rows that are tried
# The largest change, relative to that in one document, that can be rounding. In half precision a hundred eps would be
# more than some models mix.
MOST_EPS, MOST = 100, 1 / 32


def mixes(model: Any, run: Run, vocabulary: int, longest: int, rows: int = 1) -> str | None:
    """Try whether a document's outputs change with the document before it in its row.

    Two documents are run as one row. Then the first gets other tokens, and the second's outputs must stay the same:
    bit for bit in most models, because the shapes are the same. They may differ by rounding in a mixture of experts,
    whose experts get other numbers of tokens. What a change means is seen from the change if both are one document,
    which a model is meant to see as a whole.

    A module is in evaluation mode meanwhile, without gradients. Its modes and torch's random state stay as they were.

    Args:
        model: the model, for its modes and its name; a module or any callable.
        run: runs it, as it will be run.
        vocabulary: V, below which tokens are. With one token alone there is nothing to see.
        longest: the number of tokens of the longest row; no longer row is tried.
        rows: how many rows a batch may have. Two are tried, if there may be several.

    Returns:
        What is wrong, as a sentence for a message; None if the model keeps documents apart.
    """
    if min(longest, vocabulary) < 2:
        return None
    count = min(rows, 2)
    with _at_rest(model):
        share, limit = _share(run, vocabulary, longest, count), _limit(model)
        if not share > limit:
            return None
        only_several = count > 1 and not _share(run, vocabulary, longest, 1) > limit
    several = " (of several rows in a batch; a batch size of 1 would do)" if only_several else ""
    kind = getattr(getattr(model, "config", None), "model_type", None) or type(model).__name__
    return (
        f"a {kind} model does not keep the documents of a row apart{several}: with other tokens in the first of two "
        f"documents, the second's outputs change by {100 * share:.2g} % of what they change by if both are one document"
    )


def _share(run: Run, vocabulary: int, longest: int, count: int) -> float:
    """The change of the second document's outputs with the first document, as a share of that in one document."""
    one, other, second = _documents(vocabulary, min(longest, LENGTH))
    apart, together = (
        _change(*(run(_rows(first, second, starts, count))[:, len(first) :] for first in (one, other)))
        for starts in ([0, len(one)], [0])
    )
    if together == 0:
        return 1.0 if apart else 0.0
    return apart / together


def _documents(vocabulary: int, length: int) -> tuple[Ints, Ints, Ints]:
    """Two first documents that differ in every token, and a second: together `length` tokens, 2 or more."""
    tokens = np.arange(3 * length) * max(vocabulary // (3 * length), 1) % vocabulary
    half = length // 2
    return tokens[0::3][:half], tokens[1::3][:half], tokens[2::3][half:]


def _rows(first: Ints, second: Ints, starts: list[int], count: int) -> Sequences:
    """A batch that has the same row `count` times."""
    tokens = np.concatenate([first, second])
    return Sequences(
        Ragged.of([tokens] * count, np.int64),
        Ragged.of([np.array(starts)] * count, np.int64),
        Ragged.of([np.arange(len(tokens)) > 0] * count, np.bool_),
    )


def _change(one: Tensor, other: Tensor) -> float:
    import torch

    same = one == other  # -inf too, whose difference is no number
    return float(torch.where(same, 0, one.float() - other.float()).norm())


def _limit(model: Any) -> float:
    """The largest share that can be rounding, from the least precise type of a module's weights."""
    import torch

    weights = model.parameters() if isinstance(model, torch.nn.Module) else ()
    types = {weight.dtype for weight in weights if weight.is_floating_point()} | {torch.float32}
    return min(MOST_EPS * max(torch.finfo(dtype).eps for dtype in types), MOST)


@contextmanager
def _at_rest(model: Any) -> Iterator[None]:
    """A module in evaluation mode, without gradients; afterwards its modes and the random state are as before."""
    import torch

    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    modes = [(module, module.training) for module in modules]
    cuda: Any = torch.cuda
    devices = list(range(cuda.device_count())) if cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        try:
            for module in modules[:1]:
                module.eval()
            yield
        finally:
            for module, mode in modes:  # a module comes before those inside it, which it may change
                if module.training != mode:
                    module.train(mode)
