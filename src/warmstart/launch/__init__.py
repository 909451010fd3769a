"""Engines that bring the runs of a sweep to their ends: in process, on one machine, on Slurm."""
