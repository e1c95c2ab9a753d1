"""The code of exported modules: `mas.deploy.export_writer` copies what a graph needs of it. Read `graph` first."""
