"""Statistics that can say better, worse, equivalent or inconclusive.

One comparison: significance.py tests two lists of scores, effects.py says how large a difference is, bca.py has a
second kind of interval, power.py says what a number of seeds can show; evidence.py combines them.

Several comparisons: families.py corrects p-values. verdicts.py compares every configuration of a study with its
baseline, calibration.py compares how well they are calibrated. interactions.py asks whether a gain is larger from
scratch, against_teacher_free.py whether KD beats the regularizers without a teacher, across/ what holds over several
tasks. summaries.py turns all of this into claims.

Row by row: rowwise.py (which uses weighted.py), and rowwise_table.py for a whole study. reliability.py has the bins of
reliability diagrams. runs.py compares two runs of a study.
"""

from kdcache.statistics.across import almost_stochastic_order, compare_across_tasks
from kdcache.statistics.against_teacher_free import compare_with_teacher_free
from kdcache.statistics.calibration import compare_calibration
from kdcache.statistics.interactions import compare_inits
from kdcache.statistics.reliability import tabulate_reliability
from kdcache.statistics.rowwise_table import compare_examples
from kdcache.statistics.storage import compare_storage
from kdcache.statistics.summaries import headline, summarize
from kdcache.statistics.verdicts import compare, tabulate_looks, tabulate_scores

__all__ = [
    "almost_stochastic_order",
    "compare",
    "compare_across_tasks",
    "compare_calibration",
    "compare_examples",
    "compare_inits",
    "compare_storage",
    "compare_with_teacher_free",
    "headline",
    "summarize",
    "tabulate_looks",
    "tabulate_reliability",
    "tabulate_scores",
]
