"""The experience library as a value, and the operations on it. Read `library` first."""
