FROM base
RUN mkdir -p /was-dir/sub && echo x > /was-file
COPY a /was-dir/
COPY d /was-dir
COPY d/sub /was-dir/sub
