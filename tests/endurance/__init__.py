"""Real daemons, an accelerated calendar and an adversary that strikes at random; afterwards the books must balance.

    make endurance MINUTES=30 SEED=7

Everything follows from the seed but the exact timing. What the daemons say they did is in the store; what really
happened is in a journal that each job process appends to, out of maintd's reach. The two are compared at the end.
"""
