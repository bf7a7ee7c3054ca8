"""Finds out which chips, hosts and network interfaces this server has."""
