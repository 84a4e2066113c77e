FROM base
MAINTAINER Somebody <somebody@example.org>
