"""Imported by every Python that starts with this folder on its path: it and the processes it starts are small too."""

from tests.small import make_small

make_small()
