from __future__ import annotations

from pathlib import Path

import pytest

from kdcache.system import processes
from tests.launching import run_side_by_side

SCRIPT = """
import os, sys
from pathlib import Path
from kdcache.system import processes
from kdcache.system.locks import exclusive

folder = Path(sys.argv[1])
with exclusive(folder / "kd"):  # the second process would be refused
    found = processes.from_main(lambda: [os.environ["RANK"], "to do"])
    (folder / f"found-{os.environ['RANK']}").write_text(" ".join(found))
"""


def test_one_process_decides_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert processes.is_main()
    assert processes.from_main(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        processes.from_main(lambda: 1 // 0)


def test_two_processes_follow_the_main_one_and_only_it_takes_the_lock(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    run_side_by_side(tmp_path / "script.py", tmp_path)
    assert [(tmp_path / f"found-{rank}").read_text() for rank in (0, 1)] == ["0 to do", "0 to do"]
