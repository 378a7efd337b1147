"""Calls on several MPI ranks within a queue job: the job's process starts the ranks and gathers what they return."""
