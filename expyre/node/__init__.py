"""What runs on the compute node or as a process of its own: standard library only, nothing of the rest of expyre."""
