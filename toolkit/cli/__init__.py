"""The `edgewise` command. Read `app` first."""
