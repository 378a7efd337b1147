"""Real queue systems and SSH servers on this machine, for tests."""
