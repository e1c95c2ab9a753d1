"""The HTML report of a run. Read `run_report` first."""
