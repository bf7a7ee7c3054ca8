"""Rules of gateways, pickers and clients, checked against any server by its URL."""
