# escape=`
FROM base
RUN echo one `
    two > /escaped
ENV BACK=C:\x\y
CMD echo `
  end
#: differs buildah: config Env* - it takes the backslash for the escape all the same
