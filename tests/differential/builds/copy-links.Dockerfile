FROM base
COPY link /link-copied
COPY dlink /dlink-copied
COPY links /links
COPY dlink/x /through
