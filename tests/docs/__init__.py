"""What the pages say, compared with the tree and with the code."""
