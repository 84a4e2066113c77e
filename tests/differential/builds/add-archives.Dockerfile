FROM base
ADD x.tar /plain/
ADD x.tar.gz /gz/
ADD x.tar.bz2 /bz2/
ADD x.tar.xz /xz/
ADD not-a.tar /not/
ADD a d /files/
#: differs newest: file 'xz/* - BuildKit calls the host's xz, which may be missing
#: differs newest: file hard links only given*xz/td* - as above
