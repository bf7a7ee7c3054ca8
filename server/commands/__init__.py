"""One module per subcommand of `antipode`: its flags, and what it prints."""
