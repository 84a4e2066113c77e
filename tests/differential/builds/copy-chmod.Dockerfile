FROM base
COPY --chmod=640 a /a
COPY --chmod=0755 d /d
COPY --chmod=4711 --chown=1:2 a /suid
#: without classic: COPY --chmod is BuildKit's
#: differs embedded: file 'suid'* - it loses set-id bits where an owner is given
