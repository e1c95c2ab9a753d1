"""Parts that the three ways of improving share: tasks, rewards, models, budget and journal, runs, server, commands."""
