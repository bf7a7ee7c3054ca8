"""The lab's kubelet: runs the pods that are bound to its nodes, as processes of this machine."""
