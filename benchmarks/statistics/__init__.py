"""How often the verdicts are wrong, and how often they are found: a simulation study of kdcache.statistics.

procedure.py is the verdict procedure on many studies at once (the tests hold it equal to kdcache.statistics),
intervals.py the confidence intervals, scenarios.py the scores that studies could have, questions.py what is
counted, montecarlo.py the counting, page.py the tables and the figure.
"""
