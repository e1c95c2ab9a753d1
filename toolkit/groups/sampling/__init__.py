"""Which rows a step samples, and how many rollouts each of them gets. Read `rollout_plan` first."""
