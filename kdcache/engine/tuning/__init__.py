"""Tuning: each method at its best, by settings tried on rows held out of train, before the study's trials run.

holding_out.py  the task that is tuned on, made of train alone
search.py       which settings are tried: a grid, quasi-random, or TPE
places.py       where the trials of tuning lie, apart from the study's
trying.py       run a method's settings and score them
run.py          tune every configuration of a study, the baseline first
"""
