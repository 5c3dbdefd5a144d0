"""How often the verdicts are wrong, and how often they are found: a simulation study of kdcache.statistics.

procedure.py is the verdict procedure on many studies at once (the tests hold it equal to kdcache.statistics),
intervals.py the confidence intervals, across.py and claims.py the tests across tasks and the claims, scenarios.py
the scores that studies could have, questions.py and across_questions.py what is counted, tables.py all of it,
montecarlo.py the counting, page.py the tables and the figure.
"""
