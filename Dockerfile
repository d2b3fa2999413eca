# Images of the node and the operator, for those who have a container engine:
#
#   docker build --target pyrsia          -t ghcr.io/pyrsia/pyrsia:v0.1.0 .
#   docker build --target pyrsia-operator -t ghcr.io/pyrsia/pyrsia-operator:v0.1.0 .
#
# "make images" builds the same without one, reproducibly.
FROM --platform=$BUILDPLATFORM golang:1.26.8@sha256:3c3e25a4da13fd0478eed2df1eb35a0e667094a7124d3993a6a1d30f71c17e79 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS TARGETARCH VERSION=v0.1.0
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
    -ldflags "-s -w -buildid= -X main.version=$VERSION -X github.com/pyrsia/pyrsia-operator/node.Version=$VERSION" \
    -o /out/ ./cmd/pyrsia ./cmd/pyrsia-operator

FROM scratch AS pyrsia
COPY --from=build /out/pyrsia /pyrsia
USER 65532:65532
ENTRYPOINT ["/pyrsia"]

FROM scratch AS pyrsia-operator
COPY --from=build /out/pyrsia-operator /pyrsia-operator
USER 65532:65532
ENTRYPOINT ["/pyrsia-operator"]
