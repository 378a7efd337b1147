"""Small things that several operations share."""
