"""Checkpoints into Keras files and back: readers, one neutral form, writers. See ``docs/architecture.md``."""
