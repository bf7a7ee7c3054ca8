"""Two regions on one machine: real servers, real Envoy, real clients, and what breaks them.

`python -m k8s.lab` runs them; `docs/failover.md` explains the numbers.
"""
