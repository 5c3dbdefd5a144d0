"""Measure the logit cache beside its peers: one run, one JSON, one page.

python -m benchmarks.cache                          all but --large; writes the committed JSON and page
python -m benchmarks.cache --large --minilm FOLDER
python -m benchmarks.cache --only stores streaming  these alone; prints the table
python -m benchmarks.cache --only epochs --json FILE --page FILE  these again; the rest of FILE stays
python -m benchmarks.cache --quick                  tiny sizes: whether it runs, not how fast
"""

from __future__ import annotations

import argparse
import importlib
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.cache import report
from benchmarks.cache.measuring import Measurement, Options
from benchmarks.keeping import facts
from kdcache.errors import KdcacheError
from kdcache.system.files import read_json, write_atomically, write_json
from stages import stage_errors

log = logging.getLogger(__name__)

NAMES = ("writing", "joining", "stores", "streaming", "epochs", "large")  # modules of this package
JSON, PAGE = Path("benchmarks/results/cache.json"), Path("docs/measured/cache-benchmarks.md")
LIBRARIES = ("numpy", "pyarrow", "torch", "transformers", "datasets")


@stage_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    if args.work_dir:
        args.work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.work_dir, prefix="kdcache-benchmark-") as folder:
        run = measure_all(args, Path(folder))
    print(
        report.goal_table(
            [goal for measurement in run["measurements"].values() for goal in measurement["goals"]]
        )
    )
    if args.page:
        args.page.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(args.page, report.page(run).encode("utf-8"))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options. Without --json and --page, the committed files are written only if everything is measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cache",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, help="of the narrow cache; the rest in proportion (100,000)")
    parser.add_argument("--repeats", type=int, help="rounds (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="of torch and pyarrow (default: 1)")
    parser.add_argument("--device", default="cpu", help="of the models: cpu or cuda (default: cpu)")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--large", action="store_true", help="caches of 1 and 4 GB, too")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--teacher", type=Path, default=Path("data/models/bert-small"))
    parser.add_argument("--student", type=Path, default=Path("data/models/bert-tiny"))
    parser.add_argument("--minilm", type=Path, help="MiniLM-L6's checkpoint folder")
    parser.add_argument("--work-dir", type=Path, help="where to write meanwhile (default: the system's)")
    parser.add_argument("--json", type=Path, help=f"default: {JSON}, if all is measured in full")
    parser.add_argument("--page", type=Path, help=f"default: {PAGE}, if all is measured in full")
    args = parser.parse_args(arguments)
    args.rows = args.rows or (2000 if args.quick else 100_000)
    args.repeats = args.repeats or (1 if args.quick else 5)
    if args.rows < 500 or args.repeats < 1 or args.threads < 1:
        parser.error("--rows must be 500 or more, --repeats and --threads 1 or more")
    if not (args.quick or args.only):
        args.json, args.page = args.json or JSON, args.page or PAGE
    return args


def measure_all(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure all that was asked for. The JSON is written after each measurement, so that none is lost."""
    options = Options(
        work=folder,
        rows=args.rows,
        repeats=args.repeats,
        threads=args.threads,
        device=args.device,
        teacher=args.teacher,
        student=args.student,
        minilm=args.minilm,
        quick=args.quick,
    )
    made, kept = prepared(args), _kept(args)
    run = kept or {**made, "measurements": {}}
    for name in args.only or [name for name in NAMES if args.large or name != "large"]:
        log.info("%s ...", name)
        run["measurements"][name] = asdict(_measure(name, options)) | ({"made": made} if kept else {})
        run["measurements"] = {key: run["measurements"][key] for key in NAMES if key in run["measurements"]}
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            write_json(args.json, run)
    return run


def _kept(args: argparse.Namespace) -> dict[str, Any]:
    """The measurements in the file of --json that --only leaves alone. Each measurement says itself how it was made."""
    if not (args.only and args.json and args.json.exists()):
        return {}
    kept: dict[str, Any] = read_json(args.json)
    return kept


def _measure(name: str, options: Options) -> Measurement:
    module = importlib.import_module(f"benchmarks.cache.{name}")
    measurement: Measurement = module.measure(options)
    return measurement


def prepared(args: argparse.Namespace) -> dict[str, Any]:
    """Set the number of threads; returns when, where and with what is measured."""
    import pyarrow as pa
    import torch

    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise KdcacheError(f"--device {args.device}: torch finds no GPU here; use cpu")
    torch.set_num_threads(args.threads)
    pa.set_cpu_count(args.threads)
    names = ("rows", "repeats", "threads", "device", "large", "quick", "only")
    return {
        **facts(LIBRARIES, args.threads),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "options": {name: getattr(args, name) for name in names},
    }


if __name__ == "__main__":
    main()
