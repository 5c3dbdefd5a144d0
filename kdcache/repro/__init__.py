"""`kdcache repro --jobs J`: what `dvc repro` does, with up to J independent stages at once on this machine.

    pipeline.py   what DVC knows: the stages, their order, which have changed; its locks and dvc.lock
    schedule.py   which stage may start next
    job.py        a process that runs one stage as `dvc repro --single-item` does, and how to end it
    progress.py   what a person sees while stages run
    driver.py     puts these together; `reproduce` is the command
    item.py       the task, model and method that a stage is for

DVC itself runs, commits and records each stage, so the final state is that of `dvc repro`. The stages share the
machine: `kdcache.engine.slots` limits all their trials together to the number that one stage alone would run at once.
"""
