FROM base AS parent
ONBUILD COPY a /onbuild/a
ONBUILD ENV FROM_PARENT=1
ONBUILD RUN echo triggered > /onbuild/ran
ONBUILD WORKDIR /onbuild
FROM parent
RUN pwd > /where
ONBUILD LABEL next=1
#: differs newest: history* - row: History texts
