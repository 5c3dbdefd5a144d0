"""All tables of the study, in the page's order."""

from benchmarks.statistics import across_questions, questions

TABLES = (*questions.TABLES, *across_questions.TABLES)
