FROM base
RUN mkdir -p /real/place && ln -s /real/place /short
WORKDIR /short/new
COPY a here
RUN pwd > /pwd
