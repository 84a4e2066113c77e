FROM base
WORKDIR /one
WORKDIR two
WORKDIR ../three/./four
ENV D=/five
WORKDIR $D/${D}
RUN pwd > /pwd
COPY a .
COPY b ./sub/
WORKDIR /with space
#: differs newest: history *'WORKDIR /five//five' != * - row: History texts
