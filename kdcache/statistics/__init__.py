"""Statistics that can say better, worse, equivalent or inconclusive.

One comparison: tests.py compares two lists of scores, effects.py says how large a difference is, bootstrap.py has
another interval, power.py what a number of seeds can show; evidence.py puts them together. Several: families.py
corrects, verdicts.py compares every configuration of a study with its baseline, calibration.py their calibration,
interaction.py asks whether a gain is larger from scratch, teacher_needed.py whether KD beats the regularizers without a
teacher, across/ what holds over several tasks; summaries.py turns it all into claims. Row by row: examples.py, on
weighted.py, and for a whole study examples_table.py; reliability.py has the
bins of reliability diagrams. files.py writes the results.
"""

from kdcache.statistics.across import across, almost_stochastic_order
from kdcache.statistics.against_teacher_free import teacher_needed
from kdcache.statistics.calibration import calibration_comparisons
from kdcache.statistics.interactions import interaction
from kdcache.statistics.reliability import reliability_table
from kdcache.statistics.rowwise_table import compare_examples
from kdcache.statistics.summaries import headline, summary
from kdcache.statistics.verdicts import compare, summary_table

__all__ = [
    "across",
    "almost_stochastic_order",
    "calibration_comparisons",
    "compare",
    "compare_examples",
    "headline",
    "interaction",
    "reliability_table",
    "summary",
    "summary_table",
    "teacher_needed",
]
