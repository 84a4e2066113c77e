"""How the command line shows a build."""
