"""Worker processes: what they have imported before their first trial."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

from kdcache.engine.local import modelling_modules
from tests import tiny_models as tiny
from tests.engine.plans import plan


def test_the_modules_of_the_plans_architectures(tmp_path: Path) -> None:
    families = ("bert", "gpt2", "bert")
    models = [tiny.student(tiny.save_checkpoint(tmp_path / str(i), name)) for i, name in enumerate(families)]
    plans = [dataclasses.replace(plan(tmp_path, seed), model=model) for seed, model in enumerate(models)]
    plans.append(plan(tmp_path, 9))  # its checkpoint does not exist: its trial will say so
    assert modelling_modules(one.model for one in plans) == [
        "transformers.models.bert.modeling_bert",
        "transformers.models.gpt2.modeling_gpt2",
    ]


SCRIPT = """
import gc, multiprocessing, sys
from kdcache.engine import forking

forking.PRELOAD = ()  # importing torch takes seconds

def tell(pipe):
    pipe.send(("colorsys" in sys.modules, gc.isenabled(), gc.get_freeze_count() > 0))

if __name__ == "__main__":
    ours, theirs = multiprocessing.Pipe()
    server = forking.own_server(["colorsys", "kdcache.no_such_module"])
    process = server.Process(target=tell, args=(theirs,))
    process.start()
    print("colorsys" in sys.modules, *ours.recv())
    process.join()
"""


def test_workers_begin_with_them_imported(tmp_path: Path) -> None:
    """In a process of its own: this one's fork server may run already. A module that is not there does no harm."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    found = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "True", "True", "True"]  # and their garbage is collected
