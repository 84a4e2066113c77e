FROM base
RUN mkdir -p /o/old && echo 1 > /o/old/f && echo 2 > /o/g
RUN rm -r /o && mkdir /o && echo 3 > /o/h
RUN mkdir -p /o/old && echo 4 > /o/old/new
