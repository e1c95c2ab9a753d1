"""What the command line calls for graphs: options in, text out. Read `improve` first."""
