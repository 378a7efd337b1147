"""What leaves for another interpreter as a pickle, and what comes back from there."""
