"""Calculators: one call is one evaluated configuration."""
