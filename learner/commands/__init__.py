"""What the command line calls for weights: options in, text out. Read `improve` first."""
