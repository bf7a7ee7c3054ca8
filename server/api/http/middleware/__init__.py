"""What every HTTP request passes through before its route and after it."""
