"""Tasks: prompts, episode rules, termination texts and checkers."""
