FROM base
COPY --chown=web a /name
COPY --chown=web:ops d /names/
COPY --chown=12:34 d /numbers
COPY --chown=77 a /uid-only
COPY --chown=nobody:0 links /links
