"""``python -m verify`` is ``ferplus verify``."""

import sys

from ferplus_keras.cli import main

sys.exit(main(["verify", *sys.argv[1:]]))
