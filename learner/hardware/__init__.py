"""Memory, threads, processes and compilation. Read `compute_thread` first."""
