"""Workers in queue jobs that pull calls from a spool directory and leave the results there."""
