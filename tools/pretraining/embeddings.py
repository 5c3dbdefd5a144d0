"""A sentence encoder's embeddings of pieces of text, computed once and kept on disk.

The encoder is one of sentence-transformers' plain kind: a BERT whose last hidden states, averaged over a text's tokens
and scaled to length 1, are the text's embedding (Reimers & Gurevych 2019, arXiv 1908.10084).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

from kdcache.checkpoints import fingerprints
from kdcache.checkpoints.checkpoint import read_config
from kdcache.system.files import write_atomically
from tools.pretraining.errors import PretrainingError
from tools.pretraining.sequences import digest, save_array

log = logging.getLogger(__name__)

Embeddings: TypeAlias = npt.NDArray[np.float16]

SHARD = 10_000  # pieces in a file
BATCH = 256
LONGEST = 128  # tokens of a piece that the encoder reads


class SentenceEncoder:
    """A pre-trained encoder in a local folder, as a function from texts to embeddings of length 1."""

    def __init__(self, folder: Path) -> None:
        """Load it.

        Raises:
            ModelError, PretrainingError: the folder is no model, or lacks some of its weights.
        """
        self.model = load_encoder(folder)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Embeddings:
        """Embeddings [N, D] of N texts. Texts of similar length share a batch, so that there is little padding."""
        encoded = self.tokenizer(list(texts), truncation=True, max_length=LONGEST)["input_ids"]
        order = np.argsort([len(ids) for ids in encoded], kind="stable")
        embeddings = np.empty((len(texts), self.model.config.hidden_size), np.float16)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            ids, mask = pad([encoded[row] for row in rows], self.tokenizer.pad_token_id)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            embeddings[rows] = F.normalize(mean_pool(hidden.float(), mask), dim=-1).numpy()
        return embeddings


def load_encoder(folder: Path) -> Any:
    """A checkpoint's encoder in float32, in eval mode; a missing pooler is drawn at random.

    Raises:
        ModelError: the folder is no model.
        PretrainingError: other weights than the pooler's are missing.
    """
    read_config(folder)
    output: Any = transformers.utils.logging
    verbosity = output.get_verbosity()
    output.set_verbosity_error()  # it would warn of heads, which are left out on purpose
    try:
        encoder, report = AutoModel.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    finally:
        output.set_verbosity(verbosity)
    if missing := sorted(key for key in report["missing_keys"] if not key.startswith("pooler.")):
        raise PretrainingError(
            f"{folder}: config.json and weights do not belong together, {', '.join(missing[:3])} missing; "
            "fetch or make the checkpoint again"
        )
    return encoder.eval()


def pad(rows: Sequence[Sequence[int]], token: int) -> tuple[Tensor, Tensor]:
    """Token ids [B, S], padded on the right to the longest row, and their mask [B, S], 1 where a token is."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), token)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.as_tensor(row)
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean [B, H] of the hidden states [B, S, H] where the mask [B, S] is 1."""
    return (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def cached_embeddings(encoder: Path, pieces: Sequence[str], folder: Path) -> tuple[Embeddings, str]:
    """The encoder's embeddings [N, D] of the pieces, kept in a folder, and a digest of what made them.

    The files have 10,000 pieces each. Each is written whole, and named after the encoder and its pieces. So a stopped
    run continues after the last file, and for a longer list of pieces only the added ones are computed.

    Raises:
        ModelError: the encoder's folder is no model.
    """
    maker = digest([fingerprints.of_weights(encoder), fingerprints.of_tokenizer(encoder)])
    shards = [pieces[start : start + SHARD] for start in range(0, len(pieces), SHARD)]
    keys = [digest([maker, *shard]) for shard in shards]
    paths = [folder / f"{key}.npy" for key in keys]
    missing = [(shard, path) for shard, path in zip(shards, paths, strict=True) if not path.exists()]
    if missing:
        log.info(
            "embedding %d pieces, in %d files of which %d are there",
            len(pieces),
            len(paths),
            len(paths) - len(missing),
        )
        embed = SentenceEncoder(encoder)
        for shard, path in tqdm(missing, disable=None, desc="embedding"):
            write_atomically(path, partial(save_array, embed(shard)))
    return np.concatenate([np.load(path, mmap_mode="r", allow_pickle=False) for path in paths]), digest(keys)
