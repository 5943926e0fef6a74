"""The tasks by their names."""

from __future__ import annotations

from ltuning.tasks.classes import Classes
from ltuning.tasks.multilabel import Multilabel
from ltuning.tasks.tags import Tags
from ltuning.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (Classes(), Multilabel(), Tags())}
