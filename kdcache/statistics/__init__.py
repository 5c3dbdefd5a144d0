"""Statistics that can say better, worse, equivalent or inconclusive.

tests.py compares two lists of scores, families.py corrects over several comparisons, verdicts.py compares
every configuration of a study with its baseline, interaction.py asks whether a gain is larger from scratch,
teacher_needed.py whether KD beats the regularizers without a teacher, across/ what holds over several tasks;
summaries.py turns it all into claims, files.py writes the results.
"""

from kdcache.statistics.across import across, almost_stochastic_order
from kdcache.statistics.interaction import interaction
from kdcache.statistics.summaries import summary
from kdcache.statistics.teacher_needed import teacher_needed
from kdcache.statistics.verdicts import compare, summary_table

__all__ = [
    "across", "almost_stochastic_order", "compare", "interaction", "summary", "summary_table", "teacher_needed",
]  # fmt: skip
