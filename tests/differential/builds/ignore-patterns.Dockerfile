FROM base
COPY . /context
#: ignore: # a comment
#: ignore: *.md
#: ignore: !README.md
#: ignore: **/*.log
#: ignore: d?/z
#: ignore: node_modules
#: ignore: .git
#: ignore: /vendor
#: ignore: deep/**/bottom
#: ignore: src
#: ignore: !src/lib
