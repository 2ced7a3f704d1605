"""How a node reaches the leader: addresses, connections, and sessions over them."""
