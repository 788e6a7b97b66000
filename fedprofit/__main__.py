"""Run the command line with `python -m fedprofit`."""

from fedprofit.cli import main

main()
