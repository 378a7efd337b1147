"""Calls served by workers of this machine, or of an allocation: processes that are connected by sockets."""
