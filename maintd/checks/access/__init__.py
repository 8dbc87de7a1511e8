"""Who has access: accounts, keys, groups, roles and tokens, their use, and what persons decided about them."""
