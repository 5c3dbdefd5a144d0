"""Pre-train an embedded checkpoint: `python -m tools.pretrain bert-tiny --texts corpus.parquet`.

This is no part of the DVC pipeline, which starts from the checkpoints in data/models/.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from stages import stage_errors
from tools.pretraining import load_recipe, pretrain, read_hub_texts, read_texts

MODELS = Path("data/models")
WORK = Path(".pretrain")


@stage_errors()
def main(arguments: list[str] | None = None) -> None:
    args = _parse(arguments)
    target = {} if args.tokens is None else {"tokens": args.tokens}
    recipe = load_recipe(args.recipes, args.name, **target)
    pretrain(
        recipe,
        read_hub_texts(args.hub, args.documents) if args.hub else read_texts(args.texts),
        args.work_dir or WORK / args.name,
        args.out or MODELS / args.name,
        tokenizer_dir=args.tokenizer,
        start_dir=args.start,
        teacher_dir=args.teacher,
        keep_at=args.keep_at,
        corpus=args.hub or ", ".join(path.name for path in args.texts),
        command=_command(args, recipe.tokens),
    )


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.pretrain", description=__doc__)
    parser.add_argument("name", help="a recipe in --recipes")
    parser.add_argument("--texts", type=Path, nargs="+", help=".parquet, .jsonl (text) or .txt files")
    parser.add_argument("--hub", help="or a hub data set with a text column")
    parser.add_argument("--documents", type=int, default=1_000_000, help="how many of the hub's documents")
    parser.add_argument("--tokens", type=int, help="another target; may change when a run is resumed")
    parser.add_argument(
        "--keep-at",
        type=int,
        nargs="+",
        default=[],
        metavar="TOKENS",
        help="also keep the model after so many tokens, each in OUT-at-TOKENS",
    )
    parser.add_argument("--tokenizer", type=Path, help="a folder whose tokenizer to use (default: train one)")
    parser.add_argument("--teacher", type=Path, help="the folder of the encoder that a recipe distils")
    parser.add_argument("--start", type=Path, help="distil into this checkpoint, without language modelling")
    parser.add_argument("--recipes", type=Path, default=MODELS / "pretraining.yaml")
    parser.add_argument("--work-dir", type=Path, help=f"where the run can resume (default: {WORK}/NAME)")
    parser.add_argument("--out", type=Path, help=f"default: {MODELS}/NAME")
    args = parser.parse_args(arguments)
    if bool(args.texts) == bool(args.hub):
        parser.error("give either --texts FILE... or --hub ID")
    return args


def _command(args: argparse.Namespace, tokens: int) -> str:
    """The command for the card: files have their names only, without this machine's folders."""
    data = f"--hub {args.hub}" if args.hub else f"--texts {' '.join(path.name for path in args.texts)}"
    if args.hub:
        data += f" --documents {args.documents}"
    for option in ("tokenizer", "start", "teacher"):
        if folder := getattr(args, option):
            data += f" --{option} {folder.name if folder.is_absolute() else folder}"
    target = "" if args.start else f" --tokens {tokens}"
    kept = f" --keep-at {' '.join(map(str, args.keep_at))}" if args.keep_at else ""
    return f"python -m tools.pretrain {args.name} {data}{target}{kept}"


if __name__ == "__main__":
    main()
