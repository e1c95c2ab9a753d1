"""The models that Edgewise fetches and serves on this machine. Read `catalogue` first."""
