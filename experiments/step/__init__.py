"""How fast the network trains and infers."""
