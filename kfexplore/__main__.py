"""`python -m kfexplore VERB`: the same as `kfexplore VERB`."""

from kfexplore.cli.main import main

main()
