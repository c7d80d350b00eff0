"""The set-up: questions, trials and imports, and the files that come of them; ``commands/setup`` leads through it."""
