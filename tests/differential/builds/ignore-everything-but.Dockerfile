FROM base
COPY . /context
#: ignore: *
#: ignore: !src
#: ignore: !d/sub
#: ignore: src/*.h
