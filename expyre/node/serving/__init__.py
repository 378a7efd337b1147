"""Processes that serve calls: what a worker does, who starts and ends workers, and the messages between them."""
