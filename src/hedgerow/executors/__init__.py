"""Where the cells of a grid are carried out: processes of this machine, or a Ray cluster. Imports no torch."""

from hedgerow.executors.local import Local
from hedgerow.executors.ray_tasks import RayTasks
from hedgerow.executors.schedule import Ending, Paused, Task, Workers, carry_out, failure

__all__ = ["Ending", "Local", "Paused", "RayTasks", "Task", "Workers", "carry_out", "failure"]
