FROM base
RUN mkdir -p /t/td && echo old > /t/td/tf && chown 3:3 /t/td && ln -s /elsewhere /t/td/soft
ADD x.tar /t
