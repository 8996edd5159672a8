"""The cooperative game of CoKV: players are KV heads, and a coalition's utility is what the model still gets right.

`plan` defines game, plan and estimate. `estimators` lists the estimators, each in a file of its own; those from
complementary pairs share `draws` and `strata`. `exact` is the oracle for small games. `stability` says how far a score
can be trusted, `stopping` when a run may end. `utility` plays the game with a model, whose players are in `players`;
`ledger` keeps evaluated coalitions. Games with known answers: benchmarks/worlds.
"""
