"""One module per command or family of commands; `sampan.cli.catalog` says which is where."""
