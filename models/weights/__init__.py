"""From a checkpoint's tensors to the decoder's sharded arrays."""
