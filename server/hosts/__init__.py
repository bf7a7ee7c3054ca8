"""How the hosts of one slice find each other, stay in step and end together."""
