"""What is kept beside a measurement's numbers: when, where and with what it was made."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from kdcache.system.devices import machine
from kdcache.system.files import read_json, write_json
from kdcache.system.versions import installed

ROOT = Path(__file__).parents[1]


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables without kdcache's own: with a user's KDCACHE_STORE a study would copy, not train."""
    return {name: value for name, value in environment.items() if not name.startswith("KDCACHE_")}


def facts(libraries: Iterable[str], threads: int = 1) -> dict[str, Any]:
    """When, on what kind of machine, how busy, and with what. No names of hosts or folders."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {
        "date": date.today().isoformat(),
        "machine": machine(threads),
        "load_before": round(os.getloadavg()[0], 1),
        "commit": commit.stdout.strip(),
        "versions": installed(("python", *libraries)),
    }


def write(path: Path, name: str, result: Mapping[str, Any]) -> None:
    """Add a result to the file under its name; other results stay."""
    kept = dict(read_json(path)) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**kept, name: result})
