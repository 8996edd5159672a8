"""How one layer holds the tokens of some rows: what is stored, where, and how new queries attend it.

    rows.py         what every store offers, and what it is filled from
    ragged.py       K and V as they are, each (row, KV head) a stretch of slots
    evictors.py     which slot of a flat store goes when a head is full: the oldest's
    attention_evictor.py  or that which a rule names, with its notes of each token
    compensated.py  one slot that stands for all dropped tokens
    watchers.py     which of these watch over what, by the rows' policies
    plain.py        rows that grow, evict or compensate: the flat store and what watches over it
    quantized.py    rows whose older tokens are packed into a few bits
    pruned.py       rows whose older keys have lost some channels
    recalled.py     rows whose pages lie in CPU memory and come back when they are wanted

A layer with rows of several kinds has one store for each kind. The rules themselves are in cokv/methods/policies.
"""
