"""Guard on learned text: leaks of rows, injections, secrets, personal data may not enter. Read `guard` first."""
