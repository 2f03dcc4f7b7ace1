"""`python -m openinferencev2`: the command line where no script is installed, as in pods."""

from openinferencev2.cli import main

main()
