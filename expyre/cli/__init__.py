"""The command line ``xpr``: one module per family of commands, imported only when one of its commands is called."""
