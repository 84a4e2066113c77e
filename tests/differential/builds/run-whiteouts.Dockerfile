FROM base
RUN mkdir -p /d/sub /gone && echo 1 > /d/a && echo 2 > /d/b && echo 3 > /d/sub/c && echo 4 > /gone/x && ln -s a /d/l
RUN rm /d/a && rm -r /gone && rm -r /d/sub && rm /d/l
RUN mkdir /gone && echo new > /gone/y
