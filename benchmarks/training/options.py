"""The command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import training
from benchmarks.keeping import ROOT
from benchmarks.training.runs import VARIANTS


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description=training.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--files", type=Path, nargs=2, metavar=("TRAIN", "VALIDATION"), help="other data")
    parser.add_argument("--text", nargs="+", default=["text"], help="its text columns (default: text)")
    parser.add_argument("--rows", type=int, help="at most so many train rows (default: all)")
    parser.add_argument(
        "--checkpoint", default=str(ROOT / "data/models/bert-tiny"), help="default: bert-tiny"
    )
    parser.add_argument("--layers", type=int, help="only its first layers")
    parser.add_argument(
        "--size",
        type=int,
        nargs=3,
        metavar=("LAYERS", "WIDTH", "HEADS"),
        help="a model of this size, from scratch, with the checkpoint's tokenizer; so small that its arithmetic takes "
        "no time, it shows what the rest of a step takes, which a GPU is not faster at",
    )
    parser.add_argument("--init", choices=("pretrained", "scratch"), default="pretrained")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        default=[*VARIANTS],
        metavar="NAME",
        help="only these, of both programs, by their names in the table (default: all; to compare accuracies, two and "
        "many rounds)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--hourly-rounds", type=int, default=3, help="0: none (default: %(default)s)")
    parser.add_argument("--kd-rounds", type=int, default=10, help="0: none (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to keep what was found, under --name")
    parser.add_argument("--name", default="headlines, bert-tiny", help="default: %(default)s")
    args = parser.parse_args(arguments)
    if {VARIANTS[name].who for name in args.variants} != {"kdcache", "Trainer"}:
        parser.error(
            "--variants: name at least one of kdcache and one of the Trainer; each is compared with the other"
        )
    return args
