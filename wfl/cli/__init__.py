"""The command ``wfl``: operations over files of configurations from the shell."""
