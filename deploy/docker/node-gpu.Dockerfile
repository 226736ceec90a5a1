# A node whose models run on NVIDIA GPUs: TensorFlow with the CUDA libraries that it was built against. The driver is the machine's. Build it from the top of the checkout:
#
#	docker build -f deploy/docker/node-gpu.Dockerfile --build-arg VERSION=$(git describe --always) -t footfall:gpu .
#
# What it starts reads its configuration from the environment (FOOTFALL_…) or from a file. The root may be read-only: only
# /var/lib/footfall and /tmp are written to, and by a node that has its log and store elsewhere only /tmp, by TensorFlow.

FROM python:3.11.13-slim-bookworm AS tensorflow
WORKDIR /src
COPY requirements-gpu.txt deploy/docker/tensorflow.sh ./
RUN ./tensorflow.sh requirements-gpu.txt /tensorflow

FROM golang:1.26.8-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY --from=tensorflow /tensorflow /tensorflow
COPY . .
ARG VERSION=unknown
RUN deploy/docker/build.sh "$VERSION" /tensorflow /binaries

FROM debian:12.11-slim AS root
WORKDIR /src
COPY deploy/docker/root.sh ./
RUN ./root.sh /root-of-image

FROM scratch
ARG VERSION=unknown
LABEL org.opencontainers.image.title="Footfall node" \
      org.opencontainers.image.description="A living picture of every customer of a retailer, scored on GPUs" \
      org.opencontainers.image.version="$VERSION"
COPY --from=root /root-of-image/ /
COPY --from=tensorflow /tensorflow/lib/ /opt/footfall/lib/
COPY --from=build /binaries/ /usr/bin/
COPY models/ /opt/footfall/models/
ENV PATH=/usr/bin \
    FOOTFALL_MODELS_URL=file:/opt/footfall/models \
    FOOTFALL_LOGGING_FORMAT=json \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TF_CPP_MIN_LOG_LEVEL=1
USER 65532:65532
WORKDIR /var/lib/footfall
VOLUME ["/var/lib/footfall", "/tmp"]
EXPOSE 8080 8081 7946/tcp 7946/udp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["/usr/bin/footfall", "health"]
ENTRYPOINT ["/usr/bin/footfall-node"]
