"""What a caller gives, read into one request that means the same over both transports."""
