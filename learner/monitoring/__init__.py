"""What is watched while weights are trained: collapse, time, budget, what is kept. Read `collapse` first."""
