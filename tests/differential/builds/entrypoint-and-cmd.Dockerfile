FROM base
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["echo a \"quoted\" \\ word"]
