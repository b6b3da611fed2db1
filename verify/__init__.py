"""Proof that a converted file is the same function as its source. See ``docs/parity.md``."""
