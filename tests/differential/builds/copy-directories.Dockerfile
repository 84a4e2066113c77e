FROM base
COPY d /d
COPY d/ /d-slash/
COPY d d2 /both/
COPY empty /empty
COPY sticky /sticky
COPY perm /perm
COPY . /all
