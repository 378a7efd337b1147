"""What runs where a job runs: standard library only, any Python from 3.9, no import of the rest of the package."""
