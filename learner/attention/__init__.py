"""Exact forward passes that share what prompts have in common. Read `logprobs` first."""
