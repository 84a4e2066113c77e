FROM base AS one
CMD ["from", "base"]
FROM one
ENTRYPOINT ["/bin/echo"]
