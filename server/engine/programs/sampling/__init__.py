"""From hidden states and logits to tokens, log probabilities and pooled sums, on the device."""
