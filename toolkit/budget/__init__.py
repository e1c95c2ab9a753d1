"""What a run spends and what it has already paid for. Read `ledger` first."""
