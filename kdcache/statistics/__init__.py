"""Statistics that can say better, worse, equivalent or inconclusive.

tests.py compares two lists of scores, families.py corrects over several comparisons, verdicts.py compares
every configuration of a study with its baseline, interaction.py asks whether a gain is larger from scratch,
summaries.py turns it all into claims, files.py writes the results.
"""

from kdcache.statistics.interaction import interaction
from kdcache.statistics.summaries import summary
from kdcache.statistics.verdicts import compare, summary_table

__all__ = ["compare", "interaction", "summary", "summary_table"]
