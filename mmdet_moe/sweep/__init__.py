"""Sweeps: many trainings that differ in a few settings; see :mod:`.grid`."""
from .grid import Run, runs_of, write_configs, write_slurm
from .running import sweep
from .table import write_table

__all__ = [
    'Run', 'runs_of', 'sweep', 'write_configs', 'write_slurm', 'write_table'
]
