"""Learning in weights: gradient GRPO and its published variants, on a laptop, one GPU or several."""
