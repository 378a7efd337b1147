"""One module for each command of ``wfl``; they import what they need when they are called."""
