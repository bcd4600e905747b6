"""``xalora doctor``: the first contact with a network, and what it settles of the protocol."""
