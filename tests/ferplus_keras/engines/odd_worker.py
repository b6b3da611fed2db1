"""A process that opens any file, says so, and then does what the file says: end by a signal, or never answer."""

import os
import signal
import sys
import time
from pathlib import Path

from ferplus_keras.engines.tflite_process import receive, send

send(sys.stdout.buffer, by="odd", quantized=False)
receive(sys.stdin.buffer)
if Path(sys.argv[1]).read_text() == "crash":
    os.kill(os.getpid(), signal.SIGSEGV)
time.sleep(60)
