"""`kdcache repro --jobs J`: what `dvc repro` does, with up to J independent stages at once on this machine.

    pipeline.py   what DVC says: the stages, their order, which have changed; its locks and dvc.lock
    schedule.py   which stage may start next
    job.py        a process that runs one stage as `dvc repro --single-item` does, and how to end it
    progress.py   what a person sees meanwhile
    driver.py     puts these together; `reproduce` is the command
    item.py       which names a stage is for

Each stage is run, committed and recorded by DVC itself, so the state at the end is that of `dvc repro`. The stages
share the machine: `kdcache.engine.slots` keeps their trials, together, to as many at once as one stage alone would run.
"""
