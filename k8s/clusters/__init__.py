"""Two regions on one machine, each with a real Kubernetes control plane; Helm installs the charts.

`python -m k8s.clusters` runs the scenarios; `docs/clusters.md` says what is real and what is not.
"""
