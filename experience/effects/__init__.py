"""The effect of each lesson on the reward, estimated from randomised exposure. Read `estimate` first."""
