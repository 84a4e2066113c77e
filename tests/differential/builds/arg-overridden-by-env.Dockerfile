FROM base
ARG V=arg
ENV V=env
RUN echo $V > /v
ENV W=${V}-w
#: options: --build-arg V=option
