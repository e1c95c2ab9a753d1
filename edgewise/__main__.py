"""Run the command: `python -m edgewise`."""

from edgewise.toolkit.cli.app import main

if __name__ == "__main__":
    main()
