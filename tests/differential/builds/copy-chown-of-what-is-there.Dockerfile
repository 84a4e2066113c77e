FROM base
RUN mkdir -p /target/sub && echo old > /target/x && chown -R 5:6 /target && chmod 700 /target
RUN mkdir -p /t2/sub && chown -R 5:6 /t2 && chmod 700 /t2/sub
COPY --chown=web:ops d /target
COPY d /t2
