"""Pictures of the report for the documentation: `python -m tools.screenshots --metrics DIR --params FILE`.

Builds the report of a metrics folder. Headless Chromium takes pictures of its first screen, its main sections and a
phone's view, into docs/pictures/report-*.png. Needs `chromium` on the PATH.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from kdcache.report.page import write_report
from kdcache.study import load_study
from stages import stage_errors

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=15000")
ALL_BUT = "header, footer, main > section:not(:has(#{}))"
# name: width and height in pixels, what to hide (CSS selectors), and whether in the dark palette
VIEWS = {
    "first": (1280, 830, "", False),
    "first-dark": (1280, 830, "", True),
    "figure": (1280, 620, ALL_BUT.format("h-differences"), False),
    "comparisons": (1280, 620, ALL_BUT.format("h-comparisons"), False),
    "slopes": (1280, 620, ALL_BUT.format("h-interaction") + ", #h-interaction ~ details", False),
    "curves": (1280, 800, ALL_BUT.format("h-curves"), False),
    "calibration": (1280, 780, ALL_BUT.format("h-calibration"), False),
    "reliability": (1280, 800, ALL_BUT.format("h-calibration") + ", #h-calibration ~ details", False),
    "examples": (1280, 720, ALL_BUT.format("h-examples"), False),
    "phone": (400, 900, "", False),
}
# Chromium's window is at least 500 pixels wide. So a phone is a frame of 400 in it, and the picture is cut to it.
FRAME = (
    "<body style='margin:0'><iframe src='{page}' style='width:{width}px;height:{height}px;border:0'></iframe>"
)
NARROWEST = 500


def picture(page: Path, out: Path, width: int, height: int, hidden: str, dark: bool) -> None:
    """One view of a page as a PNG."""
    shown = _without(page, hidden) if hidden else page
    if width < NARROWEST:
        frame = page.with_name("frame.html")
        frame.write_text(FRAME.format(page=page.name, width=width, height=height), encoding="utf-8")
        shown = frame
    with tempfile.TemporaryDirectory() as profile:
        flags = [*FLAGS, f"--user-data-dir={profile}", f"--window-size={max(width, NARROWEST)},{height}"]
        flags += ["--blink-settings=preferredColorScheme=0"] if dark else []
        command = [browser(), *flags, f"--screenshot={out.resolve()}", shown.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(out) as image:
        image.crop((0, 0, width, height)).convert("P", palette=Image.Palette.ADAPTIVE).save(
            out, optimize=True
        )


def _without(page: Path, hidden: str) -> Path:
    """A copy of the page with parts hidden, since headless Chromium can only take a picture of the top."""
    style = f"<style>{hidden} {{ display: none }}</style>"
    rest = page.with_name("rest.html")
    rest.write_text(
        page.read_text(encoding="utf-8").replace("</head>", f"{style}</head>", 1), encoding="utf-8"
    )
    return rest


def browser() -> str:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        sys.exit("no chromium on the PATH; install it (apt-get install chromium) and run this again")
    return program


@stage_errors()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--metrics", type=Path, default=Path("metrics"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
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
