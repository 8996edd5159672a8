"""The cooperative game of CoKV: players are KV heads, and the worth of a coalition is what the model still gets right.

`plan` holds the words (game, plan, estimate); `sliced`, `permutation` and `leave_one_out` estimate, and `estimators`
lists them; `exact` is the oracle for small games, `toy` has games with known answers, `stability` says how far a score
can be trusted.
"""
