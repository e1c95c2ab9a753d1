"""The OpenAI-compatible server in front of an artefact. Read `server` first."""
