FROM base AS made
RUN mkdir -p /o/d && echo 1 > /o/d/f && ln /o/d/f /o/d/hard && ln -s f /o/d/soft && ln -s /o/d /o/abs && chown 7:8 /o/d/f && chmod 4711 /o/d/f && mkfifo /o/pipe && chmod 2775 /o/d && chown -h 9:9 /o/d/soft && touch -d @1100000000 /o/d/f && mkdir -m 1777 /o/sticky
FROM base
COPY --from=made /o /o
COPY --from=made /o/d/f /f
COPY --from=made /o/abs/f /through
COPY --from=made --chown=web:ops /o/d /owned
#: differs classic: file 'owned/* - it loses set-id bits where an owner is given
#: differs embedded: file 'o/pipe' is additional* - it does not copy fifos
