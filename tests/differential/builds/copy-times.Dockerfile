FROM base
COPY a large /kept/
RUN touch -d @1100000000 /kept/a
COPY d /kept/
