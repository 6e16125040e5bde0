# docker build -t fense-admin .   BASE may be any image with Python 3.10 or later and its pip.
# --build-arg EXTRAS='[postgresql]' adds the driver for a PostgreSQL server.
ARG BASE=python:3.13-slim

FROM $BASE AS build
ARG EXTRAS=
COPY . /source
# The versions that a release has; pip checks the hashes of the libraries.
RUN python3 -m venv --without-pip /fense-admin \
 && install="python3 -m pip --python /fense-admin/bin/python install --quiet" \
 && $install --requirement /source/release/libraries.txt \
 && $install --constraint /source/release/postgresql.txt "/source$EXTRAS"

FROM $BASE
COPY --from=build /fense-admin /fense-admin
# Group 0 may write to it, too: OpenShift runs an image as an arbitrary user of that group.
RUN mkdir /data && chown 10001:0 /data && chmod 770 /data
USER 10001:10001
WORKDIR /data
VOLUME /data
# On all addresses, and so with keys only: DISPUTE_MASTER_KEY has to be given.
ENV PATH=/fense-admin/bin:$PATH FENSE_ADMIN_HOST=0.0.0.0
EXPOSE 8642
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["fense-admin", "health"]
ENTRYPOINT ["fense-admin"]
# `make image` sets these two.
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title=fense-admin \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$REVISION \
      org.opencontainers.image.licenses=MIT
