FROM base
USER web
RUN id > /tmp/id && touch /tmp/mine
COPY a /tmp/copied
WORKDIR /home/made
USER 1000:55
RUN touch /tmp/numeric
USER nobody:ops
RUN touch /tmp/group
#: differs classic: file 'home/made': * - row: Who owns a WORKDIR
#: differs embedded: file 'tmp/id': * - it gives a user no further groups
