"""What a sentence encoder says of pieces of text, computed once and kept on disk.

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
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

from kdcache import checkpoints, fingerprint
from kdcache.files import write_atomically
from kdcache.pretraining.sequences import digest, save_array

log = logging.getLogger(__name__)

Embeddings: TypeAlias = npt.NDArray[np.float16]

SHARD = 20_000  # pieces in a file
BATCH = 256
LONGEST = 128  # tokens of a piece that the encoder reads


class SentenceEncoder:
    """A pre-trained encoder in a local folder, as a function from texts to embeddings of length 1."""

    def __init__(self, folder: Path) -> None:
        """Load it.

        Raises:
            ModelError: the folder is no model.
        """
        checkpoints.read_config(folder)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.model: Any = AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        ).eval()

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Embeddings:
        """Embeddings [N, D] of N texts. Those of like length share a batch, so that little is padding."""
        encoded = self.tokenizer(list(texts), truncation=True, max_length=LONGEST)["input_ids"]
        order = np.argsort([len(ids) for ids in encoded], kind="stable")
        found = np.empty((len(texts), self.model.config.hidden_size), np.float16)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            ids, mask = pad([encoded[row] for row in rows], self.tokenizer.pad_token_id)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            found[rows] = F.normalize(mean_pool(hidden.float(), mask), dim=-1).numpy()
        return found


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


def cached_embeddings(encoder: Path, pieces: Sequence[str], work_dir: Path) -> tuple[Embeddings, str]:
    """The encoder's embeddings [N, D] of the pieces, kept in the work directory, and a digest of what made them.

    They are kept in files of 20,000 pieces, each written whole: a run that was stopped goes on after the last of them.

    Raises:
        ModelError: the encoder's folder is no model.
    """
    key = digest([fingerprint.of_weights(encoder), fingerprint.of_tokenizer(encoder), *pieces])
    files = {
        start: work_dir / f"embeddings-{key}" / f"{start:09d}.npy" for start in range(0, len(pieces), SHARD)
    }
    missing = {start: path for start, path in files.items() if not path.exists()}
    if missing:
        log.info(
            "embedding %d pieces, %d files of %d are there",
            len(pieces),
            len(files) - len(missing),
            len(files),
        )
        embed = SentenceEncoder(encoder)
        for start, path in tqdm(missing.items(), disable=None, desc="embedding"):
            write_atomically(path, partial(save_array, embed(pieces[start : start + SHARD])))
    return np.concatenate([np.load(path, mmap_mode="r", allow_pickle=False) for path in files.values()]), key
