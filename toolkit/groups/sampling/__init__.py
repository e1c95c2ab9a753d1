"""Which rows are sampled, and how many rollouts each of them gets. Read `rollout_plan` first."""
