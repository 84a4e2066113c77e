FROM scratch
COPY empty-file /
ENV A=1
LABEL only=settings
CMD ["/x"]
