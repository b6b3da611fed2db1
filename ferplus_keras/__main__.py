"""``python -m ferplus_keras`` is the command ``ferplus``."""

import sys

from ferplus_keras.cli import main

sys.exit(main())
