FROM base
RUN mkdir -p /r/d && echo 1 > /r/f && echo 2 > /r/d/x
RUN mv /r/d /r/e && ln /r/f /r/hard && mv /r/f /r/moved && ln -s moved /r/soft
RUN echo changed >> /r/hard
#: differs buildah: file * - its steps share one container, so that a link is not broken by a later step
