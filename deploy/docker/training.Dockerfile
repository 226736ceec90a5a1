# The training worker: trains every model from the features that Footfall exports, evaluates them, and writes new versions into
# /var/lib/footfall/models. Build it from the top of the checkout:
#
#	docker build -f deploy/docker/training.Dockerfile --build-arg VERSION=$(git describe --always) -t footfall:training .
#
# It is a job that ends. Its command line is that of 'python -m training'; the cache of data sets is in /var/lib/footfall, too.

FROM golang:1.26.8-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
RUN CGO_ENABLED=0 GOFLAGS=-buildvcs=false go build -ldflags "-s -w -X main.version=$VERSION" -o /binaries/footfall ./cmd/footfall

FROM python:3.11.13-slim-bookworm
ARG VERSION=unknown
LABEL org.opencontainers.image.title="Footfall training" \
      org.opencontainers.image.description="Trains the models that Footfall's nodes serve" \
      org.opencontainers.image.version="$VERSION"
WORKDIR /opt/footfall
COPY requirements.txt ./
RUN python -m pip install --no-cache-dir --no-input --require-hashes --only-binary=:all: --no-deps --requirement requirements.txt \
 && groupadd --gid 65532 footfall \
 && useradd --uid 65532 --gid 65532 --home-dir /var/lib/footfall --create-home --shell /usr/sbin/nologin footfall
COPY --from=build /binaries/ /usr/bin/
COPY training/ /opt/footfall/training/
ENV PYTHONPATH=/opt/footfall \
    PYTHONDONTWRITEBYTECODE=1 \
    FOOTFALL_CACHE=/var/lib/footfall/cache \
    FOOTFALL_PYTHON=/usr/local/bin/python \
    TF_CPP_MIN_LOG_LEVEL=2
USER 65532:65532
WORKDIR /var/lib/footfall
VOLUME ["/var/lib/footfall", "/tmp"]
# A job is well while it runs: there is nothing to ask.
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m", "training", "--footfall", "/usr/bin/footfall", "--models", "/var/lib/footfall/models"]
