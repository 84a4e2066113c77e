FROM base
ONBUILD RUN echo "later"
ONBUILD COPY . /src
ONBUILD CMD ["x"]
#: differs newest: history* - row: History texts
