FROM base AS exec
CMD ["echo", "exec form", "$HOME"]
FROM exec
ENTRYPOINT echo entry $HOME
CMD last one wins
