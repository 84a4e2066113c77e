FROM base
RUN mkdir -p /dir/sub && echo x > /dir/sub/f && echo f > /file && ln -s /file /soft && mkdir /dir2 && echo z > /dir2/z
RUN rm -r /dir && echo now-a-file > /dir && rm /file && mkdir -p /file/deep && rm /soft && mkdir /soft && rm -r /dir2 && ln -s /file /dir2
