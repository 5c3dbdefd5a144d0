"""Tuning: find each method's best setting on rows held out of train, before the study's trials run.

holding_out.py  makes the task for tuning, from the train split only
search.py       which settings are tried: a grid, quasi-random, or TPE
places.py       the folders of tuning's trials, separate from the study's
trying.py       runs a method's settings and scores them
finished.py     the plans of what tuning has finished
run.py          tunes every configuration of a study, the baseline first
"""
