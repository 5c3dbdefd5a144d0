"""Pre-train an embedded checkpoint: `python -m stages.pretrain bert-tiny --texts corpus.parquet`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from kdcache.pretraining import PretrainingError, load_recipe, pretrain, read_hub_texts, read_texts


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="a recipe in --recipes")
    parser.add_argument(
        "--texts", type=Path, nargs="+", default=[], help=".parquet, .jsonl (text) or .txt files"
    )
    parser.add_argument("--hub", help="or a hub data set with a text column")
    parser.add_argument("--documents", type=int, default=1_000_000, help="how many of the hub's documents")
    parser.add_argument("--tokens", type=int, help="another target; may change when a run is resumed")
    parser.add_argument("--tokenizer", type=Path, help="a folder whose tokenizer to use (default: train one)")
    parser.add_argument("--recipes", type=Path, default=Path("data/models/pretraining.yaml"))
    parser.add_argument("--work-dir", type=Path, help="where the run can resume (default: .pretrain/NAME)")
    parser.add_argument("--out", type=Path, help="default: data/models/NAME")
    options = parser.parse_args(arguments)
    if bool(options.texts) == bool(options.hub):
        parser.error("give either --texts FILE... or --hub ID")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    recipe = load_recipe(
        options.recipes, options.name, **({"tokens": options.tokens} if options.tokens else {})
    )
    texts = read_hub_texts(options.hub, options.documents) if options.hub else read_texts(options.texts)
    corpus = options.hub or ", ".join(path.name for path in options.texts)
    source = f"--hub {options.hub}" if options.hub else f"--texts {corpus.replace(', ', ' ')}"
    if options.tokenizer:
        source += (
            f" --tokenizer {options.tokenizer.name if options.tokenizer.is_absolute() else options.tokenizer}"
        )
    pretrain(
        recipe,
        texts,
        options.work_dir or Path(".pretrain") / options.name,
        options.out or Path("data/models") / options.name,
        tokenizer_dir=options.tokenizer,
        corpus=corpus,
        command=f"python -m stages.pretrain {options.name} {source} --tokens {recipe.tokens}",
    )


if __name__ == "__main__":
    try:
        main()
    except PretrainingError as error:
        sys.exit(f"pretrain: {error}")
