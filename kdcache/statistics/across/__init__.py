"""Several tasks at once: what a study says beyond each task alone.

groups.py gathers a student's scores over its tasks. ranks.py, signed_rank.py, permutation.py, bootstrap.py and mixed.py
answer one question each, on plain arrays. table.py calls them all and makes metrics/across.csv. dominance.py (almost
stochastic order) is used on request only. docs/statistics-across.md says what each answers.
"""

from kdcache.statistics.across.dominance import almost_stochastic_order
from kdcache.statistics.across.table import compare_across_tasks

__all__ = ["almost_stochastic_order", "compare_across_tasks"]
