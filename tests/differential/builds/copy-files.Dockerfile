FROM base
COPY a /a
COPY a b /two/
COPY a /existing/name
COPY ["sp ace", "/with space/"]
COPY a /tmp
COPY empty-file large /sizes/
COPY .hidden /
