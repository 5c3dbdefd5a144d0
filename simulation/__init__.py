"""How often the verdicts are wrong, and how often they are found: a simulation study of kdcache.statistics.

procedure.py has the verdict procedure on many studies at once (tests check that it equals kdcache.statistics).
intervals.py has the confidence intervals, across.py and claims.py the tests across tasks and the claims. scenarios.py
has the scores that studies could have, questions.py and across_questions.py what is counted, tables.py all tables.
montecarlo.py counts, and page.py writes the tables and the figure.
"""
