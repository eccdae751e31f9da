"""Doors to other programs and frameworks; each needs its own extra."""
