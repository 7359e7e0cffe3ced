"""How many workers a load needs, and what they cost: the real core, many times over, on a virtual clock."""
