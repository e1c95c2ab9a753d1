"""The HTML report of a run. Read `run_report` first; each way of learning adds sections of its own."""
