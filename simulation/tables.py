"""All tables of the study, in the page's order."""

from simulation import across_questions, questions

TABLES = (*questions.TABLES, *across_questions.TABLES)
