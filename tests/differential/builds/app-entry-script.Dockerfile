FROM base
RUN echo service:x:999: >> /etc/group && echo service:x:999:999::/:/bin/false >> /etc/passwd && mkdir -p /var/lib/service && chown service:service /var/lib/service
COPY run.sh /usr/local/bin/docker-entrypoint.sh
RUN ln -s usr/local/bin/docker-entrypoint.sh /entrypoint.sh
VOLUME /var/lib/service
USER service
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["service"]
