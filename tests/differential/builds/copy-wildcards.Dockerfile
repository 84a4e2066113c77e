FROM base
COPY d*/x /wild/
COPY ?  /single/
COPY src/*.[ch] /src/
COPY docs/*.md README.md /docs/
COPY we[[]i]rd /
COPY star[*] /
COPY *.tar* /archives/
#: differs newest: file 'star?' is additional* - it finds no file whose name is a star
#: without buildah: it does not undo the brackets around a bracket
