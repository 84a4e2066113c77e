FROM base
COPY owned attributed /
