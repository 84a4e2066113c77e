"""Rules of good practice for Dockerfiles: a parsed Dockerfile in, findings out. Pure; knows no solver."""
