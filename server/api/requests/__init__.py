"""What a request is and what it may ask for, before any protocol and after it."""
