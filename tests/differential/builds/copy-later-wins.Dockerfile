FROM base
COPY d d2 /one/
COPY d2 d /two/
COPY d d2 d /three/
COPY d/x d2/* d/x /four/
ADD d2 x.tar d /five/
