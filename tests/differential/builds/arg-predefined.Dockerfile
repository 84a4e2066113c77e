FROM base
RUN echo "$HTTP_PROXY $http_proxy $no_proxy $NO_PROXY" > /proxies
ARG NO_PROXY
RUN echo "$NO_PROXY" >> /proxies
#: options: --build-arg HTTP_PROXY=http://proxy.example:3128 --build-arg no_proxy=local
#: differs classic: file 'proxies': * - it gives them as they are spelled
#: differs buildah: file 'proxies': * - it gives them as they are spelled
