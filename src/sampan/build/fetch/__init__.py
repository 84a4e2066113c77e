"""What a build gets from elsewhere: URLs and Git repositories. Knows nothing of instructions."""
