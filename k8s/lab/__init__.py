"""Two regions on one machine, with real servers, Envoy and clients; scenarios break a region.

`python -m k8s.lab` runs the scenarios; `docs/failover.md` explains the numbers.
"""
