"""A queue for one machine: jobs wait in a spool directory, a supervisor process starts them within a budget.

Nothing has to be set up. Whoever submits or lists jobs starts the supervisor when there is none; it belongs to no
terminal and no script, and goes away by itself when the queue has been empty for a while. Only the standard library is
needed, so that the queue can be sent to another host and used there as well.
"""
