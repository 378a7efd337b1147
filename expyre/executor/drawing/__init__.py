"""Which call needs the results of which: noted, shown as text, drawn."""
