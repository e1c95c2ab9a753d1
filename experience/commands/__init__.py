"""What the command line calls for experience: options in, text out. Read `improve` first."""
