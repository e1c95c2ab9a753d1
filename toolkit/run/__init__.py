"""A run from start to artefact: configuration, driver, directory, result. Read `runner` first."""
