# first a comment

FROM base
# between

ENV A 1 # not a comment
  # indented comment
  RUN echo indented > /indented
CMD ["x"]
