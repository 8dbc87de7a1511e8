"""The alerts of a stack: what fires, whether it reaches people, who took note of it, and what hides it."""
