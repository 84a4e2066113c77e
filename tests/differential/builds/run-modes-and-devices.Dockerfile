FROM base
RUN mkdir -m 2775 /sgid && mkdir -m 1777 /sticky && touch /suid && chmod 4755 /suid && mkfifo -m 620 /pipe && touch /none && chmod 0 /none && chown 4000000:70000 /none
RUN chmod 700 /sgid && chown web:ops /sticky
