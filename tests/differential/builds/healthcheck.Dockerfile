FROM base
HEALTHCHECK --interval=30s --timeout=1m30s --start-period=500ms --retries=5 CMD test -e /ok || exit 1
