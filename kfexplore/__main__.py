"""`python -m kfexplore VERB`: the same as `kfexplore VERB`."""

from kfexplore.cli import main

main()
