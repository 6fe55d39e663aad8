"""`python -m lctprune`, as `torchrun -m lctprune` needs it."""

import os
import signal

if os.environ.get("TORCHELASTIC_RUN_ID", "").startswith("lctprune-"):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word: the launcher has the word

from lctprune.cli.main import main

main()
