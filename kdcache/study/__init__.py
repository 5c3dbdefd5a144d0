"""What a study asks for: params.yaml as typed, checked objects.

`load_study` reads the whole file and reports every mistake at once, each with its path in the file
(`students.bert-tiny.teacher: ...`), before anything runs. Nothing here touches data, models or a network.

    names.py     which names are allowed
    metrics.py   metrics, and how each is judged
    values.py    files, seeds, schedules; the base of all parameter objects
    task.py      tasks; models.py teachers and students; methods.py regularizers and distillers
    schema.py    a whole study; seeds.py the ways to write its seeds
    looks.py     after how many seeds a study is judged; settled.py settle.json, how many seeds each configuration has
    tuning.py    which values each method may try; tuned.py tuned.json, the values that were chosen
    beside.py    reads settle.json and tuned.json
    loading.py   from the file to a study
    mistakes.py  mistakes between entries; wording.py the words for mistakes within one entry
"""

from kdcache.study.loading import load_study
from kdcache.study.methods import Regularizer
from kdcache.study.metrics import CLASSIFICATION_METRICS, LANGUAGE_METRICS, REGRESSION_METRICS, Metric
from kdcache.study.models import Lora, Model, Student, Teacher
from kdcache.study.schema import Comparison, Study
from kdcache.study.task import Augment, Source, Task
from kdcache.study.values import UNLABELLED, Params, Schedule
from kdcache.system.names import NAME

__all__ = [
    "CLASSIFICATION_METRICS",
    "LANGUAGE_METRICS",
    "NAME",
    "REGRESSION_METRICS",
    "UNLABELLED",
    "Augment",
    "Comparison",
    "Lora",
    "Metric",
    "Model",
    "Params",
    "Regularizer",
    "Schedule",
    "Source",
    "Student",
    "Study",
    "Task",
    "Teacher",
    "load_study",
]
