"""Functions, arguments and results on their way to workers and back, as pickles."""
