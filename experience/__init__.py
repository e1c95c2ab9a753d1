"""Learning by experience: Training-Free GRPO (arXiv 2510.08191) with a library of lessons in the prompt."""
