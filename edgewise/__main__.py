"""Run the command: `python -m edgewise`."""

from edgewise.toolkit.cli.app import main

main()
