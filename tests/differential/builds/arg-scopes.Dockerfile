ARG TAG=latest
ARG OUTSIDE=out
FROM base:${TAG} AS first
ARG OUTSIDE
ARG INSIDE=in
RUN echo "$OUTSIDE $INSIDE $GIVEN" > /first
FROM base
ARG GIVEN=default
ARG EMPTY
ARG INSIDE
RUN echo "[$OUTSIDE][$INSIDE][$GIVEN][$EMPTY]" > /second
COPY --from=first /first /
ENV KEPT=$GIVEN
#: options: --build-arg GIVEN=given
