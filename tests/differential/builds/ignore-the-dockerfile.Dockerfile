FROM base
COPY . /context
#: ignore: Dockerfile
#: ignore: .dockerignore
#: ignore: *.tar*
#: ignore: !x.tar
