"""A region's Kubernetes control plane: its programs, and what it knows of GKE's own resources."""
