FROM base AS common
ENV SHARED=yes
WORKDIR /srv
RUN echo common > common
FROM common AS left
RUN echo left > left
FROM common AS right
RUN echo right > right
FROM common
COPY --from=left /srv/left .
COPY --from=right /srv/right ./
USER web
