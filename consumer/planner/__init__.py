"""Plans how many workers a load needs, and their price: the real core, many times over, on a virtual clock."""
