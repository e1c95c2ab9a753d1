"""What may not enter a library: leaks of rows, injections, secrets, personal data. Read `guard` first."""
