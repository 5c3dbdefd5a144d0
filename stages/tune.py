"""DVC stage: choose each method's values, and the teachers', on rows held out of train.

It ends at once where params.yaml tunes nothing.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from kdcache.results.schema import TuningRow, columns
from kdcache.system import processes
from kdcache.system.files import write_atomically
from kdcache.system.locks import exclusive
from kdcache.system.params_file import read_params
from kdcache.trials.layout import Layout
from stages import stage_errors

PARAMS = Path("params.yaml")


@stage_errors()
def main(arguments: list[str] | None = None) -> None:
    argparse.ArgumentParser(prog="python -m stages.tune", description=__doc__).parse_args(arguments)
    layout = Layout()
    with exclusive(layout.tuning):
        if read_params(PARAMS).get("tuning") is not None:
            _run(layout)
        elif processes.is_main():
            _leave_empty(layout)


def _run(layout: Layout) -> None:
    from kdcache.engine.tuning.run import choices, teacher_choices, tune
    from kdcache.results.tuning import tuning_table
    from kdcache.results.writing import write_table
    from kdcache.study import load_study
    from kdcache.study.tuned import tuned_beside, write_tuned
    from kdcache.trials.store import project_store

    study = load_study(PARAMS)
    tuned = tune(study, layout.root, project_store())
    if processes.is_main():
        write_table(tuning_table(study, tuned), layout.tuning_table)
        write_tuned(tuned_beside(PARAMS), study, choices(tuned), teacher_choices(tuned))


def _leave_empty(layout: Layout) -> None:
    """What other stages depend on, without anything in it; trials of an earlier study are in the store."""
    from kdcache.study.tuned import tuned_beside, write_untuned

    if layout.tuning.exists():
        shutil.rmtree(layout.tuning)
    layout.tuning.mkdir(parents=True)
    write_atomically(layout.tuning_table, f"{','.join(columns(TuningRow))}\n".encode())
    write_untuned(tuned_beside(PARAMS))


if __name__ == "__main__":
    main()
