FROM base
ARG SERVER
ADD ${SERVER}/plain.txt /fetched/
ADD ${SERVER}/plain.txt /named
ADD --chown=web ${SERVER}/x.tar /archive.tar
#: options: --build-arg SERVER={server}
