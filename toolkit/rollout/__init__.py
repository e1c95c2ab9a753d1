"""One rollout: an agent that answers, calls tools or acts in an environment. Read `agent` first."""
