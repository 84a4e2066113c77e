FROM base
RUN ["/bin/sh", "-c", "echo exec > /exec"]
RUN echo one && \
    # a comment between lines
    echo two && \

    echo three > /three
run echo lower case > /lower
RUN	echo tab > /tab
