"""The commands that start a worker, or its MPI ranks: ``mpiexec``, ``srun``, ``flux run``."""
