FROM base
RUN ['echo', 'single'] || echo "as a shell command" > /shell
CMD ['not', 'json']
