"""`python -m lctprune`, as `torchrun -m lctprune` needs it."""

from lctprune.cli.main import main

main()
