"""Libraries as files, of Edgewise and of other systems. Read `library_files` first."""
