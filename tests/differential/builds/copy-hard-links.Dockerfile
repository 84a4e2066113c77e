FROM base
COPY hard /hard
COPY hard-three hard/one /mixed/
