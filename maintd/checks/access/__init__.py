"""Who has access: accounts, keys, groups, roles and tokens, when they were used, and what persons decided about them."""
