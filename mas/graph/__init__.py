"""An agent graph as a value: nodes, roles, construction, drawing. Read `graph` first."""
