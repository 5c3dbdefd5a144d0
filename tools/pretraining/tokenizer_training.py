"""The tokenizer of a run: trained on its texts, or taken from another checkpoint's folder.

Both kinds lowercase. A trained one depends on the texts alone: training twice gives the same token ids.
"""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import punctuation

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from kdcache.system.files import read_json, remove, write_json
from tools.pretraining.errors import PretrainingError
from tools.pretraining.recipe import Family, PretrainingRecipe
from tools.pretraining.sequences import digest

log = logging.getLogger(__name__)

# Each family's special tokens by their role, in the order of their ids.
SPECIAL_TOKENS: dict[Family, dict[str, str]] = {
    "bert": {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    },
    "roberta": {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    },
    "gpt2": {
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|pad|>",
    },
}
MADE_FROM = "made-from.json"  # beside a trained tokenizer: a digest of what it was trained from
ALPHABET = 250  # characters that WordPiece starts from; rarer ones become [UNK]


def prepare_tokenizer(
    recipe: PretrainingRecipe, texts: Sequence[str], work_dir: Path, given: Path | None = None
) -> PreTrainedTokenizerFast:
    """The tokenizer of a given folder, of an earlier start of this run, or a newly trained one.

    Raises:
        PretrainingError: the tokenizer has more tokens than the recipe, or lacks the family's special ones.
    """
    folder = given or work_dir / "tokenizer"
    if given is None:
        _train_once(recipe, texts, folder)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    _check_tokenizer(folder, tokenizer, recipe)
    return tokenizer


def _train_once(recipe: PretrainingRecipe, texts: Sequence[str], folder: Path) -> None:
    """Train the folder's tokenizer, unless it has been trained from the same texts and the same recipe."""
    key = digest([recipe.family, str(recipe.vocab_size), str(recipe.sequence_length), *texts])
    known = read_json(folder / MADE_FROM) if (folder / MADE_FROM).exists() else {}
    if known == {"made_from": key} and (folder / "tokenizer.json").exists():
        return
    log.info("training a %s tokenizer of %d tokens", recipe.family, recipe.vocab_size)
    remove(
        folder / MADE_FROM
    )  # a run that is killed while it saves leaves no tokenizer under an earlier digest
    trained = train_tokenizer(recipe.family, texts, recipe.vocab_size, recipe.sequence_length)
    trained.save_pretrained(folder)
    write_json(folder / MADE_FROM, {"made_from": key})


def _check_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerFast, recipe: PretrainingRecipe) -> None:
    if len(tokenizer) > recipe.vocab_size:
        raise PretrainingError(
            f"{folder}: expected at most vocab_size = {recipe.vocab_size} tokens, found {len(tokenizer)}"
        )
    needed = ["eos_token"] if recipe.family == "gpt2" else ["cls_token", "sep_token", "mask_token"]
    missing = [name for name in [*needed, "pad_token"] if getattr(tokenizer, name) is None]
    if missing:
        raise PretrainingError(
            f"{folder}: a {recipe.family} tokenizer needs {', '.join(missing)}; use another"
        )


def train_tokenizer(
    family: Family, texts: Iterable[str], vocab_size: int, max_length: int
) -> PreTrainedTokenizerFast:
    """A lowercasing tokenizer with the family's special tokens: WordPiece for BERT, else byte-level BPE."""
    if family == "bert":
        return _train_wordpiece(texts, vocab_size, max_length)
    return _train_byte_bpe(family, texts, vocab_size, max_length)


def _train_wordpiece(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    names = SPECIAL_TOKENS["bert"]
    normalizer = normalizers.BertNormalizer(lowercase=True)
    learned = _wordpiece_vocabulary(list(texts), list(names.values()), normalizer, vocab_size)
    tokenizer = Tokenizer(models.WordPiece(learned, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        do_lower_case=True,
        padding_side="right",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **names,
    )


def _wordpiece_vocabulary(
    texts: Sequence[str], special: list[str], normalizer: normalizers.Normalizer, vocab_size: int
) -> dict[str, int]:
    """A vocabulary that depends on the texts alone.

    The trainer numbers the characters inside words in the order of a hash map, which differs from run to run. If they
    are listed as its "special" tokens, they get a fixed order.
    """
    alphabet = _alphabet(texts, normalizer, ALPHABET)
    inside = [f"##{c}" for c in alphabet if c not in punctuation and unicodedata.category(c)[0] != "P"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=special + inside,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.get_vocab()


def _alphabet(texts: Iterable[str], normalizer: normalizers.Normalizer, limit: int) -> list[str]:
    """The most frequent characters, sorted."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    ranked = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    return sorted(ranked[:limit])


def _train_byte_bpe(
    family: Family, texts: Iterable[str], vocab_size: int, max_length: int
) -> PreTrainedTokenizerFast:
    names = SPECIAL_TOKENS[family]
    tokenizer = _learn_byte_bpe(texts, list(dict.fromkeys(names.values())), vocab_size)
    if family == "roberta":
        tokenizer.post_processor = processors.RobertaProcessing(
            ("</s>", 2), ("<s>", 0), add_prefix_space=True
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        add_prefix_space=True,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )


def _learn_byte_bpe(texts: Iterable[str], special: list[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    # With a prefix space a word has the same token at the start of a text as inside it.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
