"""Pictures of the report for the documentation: `python docs/screenshots.py --metrics metrics/families --params FILE`.

Builds the report of a metrics folder and takes its first screen, the figure, the calibration section (1280 pixels wide)
and a phone's view (400 pixels) with headless Chromium, into docs/report-*.png. Needs `chromium` on the PATH.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from kdcache.params import load_study
from kdcache.report.page import write_report

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=15000")
# name: width and height in pixels, the section to show (empty: the top), and whether in the dark palette
VIEWS = {
    "first": (1280, 790, "", False),
    "first-dark": (1280, 790, "", True),
    "calibration": (1280, 900, "h-calibration", False),
    "examples": (1280, 700, "h-examples", False),
    "phone": (400, 900, "", False),
}
# Chromium's window is at least 500 wide: a phone is a frame of 400 in it, and the picture is cut.
FRAME = (
    "<body style='margin:0'><iframe src='{page}' style='width:{width}px;height:{height}px;border:0'></iframe>"
)
NARROWEST = 500


def picture(page: Path, out: Path, width: int, height: int, section: str, dark: bool) -> None:
    """One view of a page as a PNG."""
    address = page.resolve().as_uri() + (f"#{section}" if section else "")
    if width < NARROWEST:
        frame = page.with_name("frame.html")
        frame.write_text(FRAME.format(page=page.name, width=width, height=height), encoding="utf-8")
        address = frame.resolve().as_uri()
    with tempfile.TemporaryDirectory() as profile:
        flags = [*FLAGS, f"--user-data-dir={profile}", f"--window-size={max(width, NARROWEST)},{height}"]
        flags += ["--force-dark-mode"] if dark else []
        command = [browser(), *flags, f"--screenshot={out.resolve()}", address]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(out) as image:
        image.crop((0, 0, width, height)).convert("P", palette=Image.Palette.ADAPTIVE).save(
            out, optimize=True
        )


def browser() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        sys.exit("no chromium on the PATH; install it (apt-get install chromium) and run this again")
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--metrics", type=Path, default=Path("metrics"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--only", choices=VIEWS, action="append", help="default: all of them")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        page = write_report(options.metrics, Path(folder), load_study(options.params))
        for name in options.only or VIEWS:
            out = options.out / f"report-{name}.png"
            picture(page, out, *VIEWS[name])
            print(out)


if __name__ == "__main__":
    main()
