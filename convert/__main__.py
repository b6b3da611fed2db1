"""``python -m convert`` is ``ferplus convert``."""

import sys

from ferplus_keras.cli import main

sys.exit(main(["convert", *sys.argv[1:]]))
