"""``python -m ferplus_keras.cli`` is ``ferplus``."""

import sys

from ferplus_keras.cli import main

sys.exit(main())
