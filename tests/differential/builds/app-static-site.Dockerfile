FROM base
LABEL org.opencontainers.image.title="A site" org.opencontainers.image.licenses=MIT
COPY docs/ /www/
COPY README.md /www/index.md
RUN find /www -type d -exec chmod 755 {} + && find /www -type f -exec chmod 644 {} +
EXPOSE 80
STOPSIGNAL SIGTERM
CMD ["httpd", "-f", "-h", "/www"]
