package cli

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/pyrsia/pyrsia-operator/node"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

func nodeCommand() *cobra.Command {
	var c node.Config
	var role, logLevel string
	var p2pPort int
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Run a node: a publisher or a mirror",
		Long: `A publisher copies images from upstream registries and signs the ledger.
A mirror follows the ledger of the publisher whose key it was given, and serves
container clients on this machine as their registry mirror. It never asks an
upstream registry.`,
		Example: `  pyrsia node --role Mirror --data /var/lib/pyrsia \
    --ledger-key 'pyrsia.example/ledger+1a2b3c4d+AX...' \
    --bootstrap /dns/publisher.example/tcp/4001/p2p/12D3KooW...`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var level slog.Level
			if err := level.UnmarshalText([]byte(logLevel)); err != nil {
				return fmt.Errorf("%w: --log-level: %w", errUsage, err)
			}
			c.Logger = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			klog.SetSlogLogger(c.Logger.With("part", "tessera"))
			c.Role = control.Role(role)
			for _, r := range []control.Role{control.Publisher, control.Mirror} {
				if strings.EqualFold(role, string(r)) {
					c.Role = r
				}
			}
			c.P2PListen = listenAddrs(p2pPort)
			if c.Role != control.Mirror && !cmd.Flags().Changed("max-ledger-age") {
				c.MaxLedgerAge = 0 // a publisher's own is never stale
			}
			return node.Run(cmd.Context(), c)
		},
	}
	f := cmd.Flags()
	f.StringVar(&role, "role", "", "Publisher or Mirror")
	f.StringVar(&c.DataDir, "data", "", "folder of the node's ledger, content and identity")
	f.StringVar(&c.SigningKeyFile, "signing-key", "", "publisher: file with the ledger's signing key")
	f.StringVar(&c.NextSigningKeyFile, "next-signing-key", "", "publisher: file with the key to which the ledger is to be handed over: both sign, until the ledger is started with that one as --signing-key")
	f.StringToStringVar(&c.Upstreams, "upstream", nil, "publisher: REGISTRY=URL to copy its images from, such as docker.io=https://registry-1.docker.io")
	f.StringVar(&c.UpstreamSecrets, "upstream-secrets", "", "publisher: folder with a folder REGISTRY of username, password or .dockerconfigjson, and ca.crt")
	f.StringArrayVar(&c.UpstreamPrivate, "upstream-private", nil, "publisher: pattern REGISTRY/REPOSITORY of what is published, and so made public, although only the login in --upstream-secrets can read it, such as 'ghcr.io/owner/*'; may be repeated (default: nothing but docker.io/library/*)")
	f.StringArrayVar(&c.OnPullAllow, "on-pull-allow", nil, "publisher: pattern of images to publish when they are pulled from --mirror-addr, such as 'alpine:*'; may be repeated")
	f.IntVar(&c.OnPullPerHour, "on-pull-per-hour", 0, "publisher: bound on the images that are published on pull in an hour (0: no bound)")
	f.StringVar(&c.LedgerKey, "ledger-key", "", "mirror: verifier key of the ledger to trust")
	f.StringArrayVar(&c.LedgerURLs, "ledger-url", nil, "mirror: URL of a further copy of the ledger to follow (c2sp.org/tlog-tiles); may be repeated")
	f.DurationVar(&c.MaxLedgerAge, "max-ledger-age", time.Hour, "mirror: alarm when the publisher has not signed the ledger for so long, such as 1h (0: never)")
	f.BoolVar(&c.RefuseStaleTags, "refuse-stale-tags", false, "mirror: resolve no tag while the ledger is older than --max-ledger-age; what is pulled by digest is served")
	f.Var((*byteSize)(&c.CacheSize), "cache-size", "bound on the content on disk in bytes, or with Ki, Mi, Gi, Ti (0: no bound): of a mirror, or of a publisher with a bucket")
	f.StringVar(&c.Bucket, "bucket", "", "publisher: keep the content in an S3-compatible bucket, s3://BUCKET/PREFIX?endpoint=https://HOST:PORT&region=REGION; the disk is a cache then")
	f.StringVar(&c.BucketSecrets, "bucket-secrets", "", "publisher: folder with the bucket's access-key-id, secret-access-key and ca.crt (default: the keys that AWS's tools find, and the system's CAs)")
	f.StringArrayVar(&c.Prefetch, "prefetch", nil, "mirror: pattern of images to fetch as soon as they are published, for this machine's platform, such as 'alpine:*'; may be repeated")
	f.IntVar(&c.CopyConcurrency, "copy-concurrency", 8, "publisher: images that are copied at once, half of them of one repository")
	f.DurationVar(&c.AttachmentsEvery, "attachments-every", 24*time.Hour, "publisher: how often to look for signatures and attestations that came after their image")
	f.Var((*byteSize)(&c.UpstreamLimit), "upstream-limit", "publisher: bound on bytes per second from all upstreams (0: no bound)")
	f.StringArrayVar(&c.ExternalAddrs, "announce", nil, "HOST:PORT at which peers reach --p2p-port from outside of a cluster or a NAT; may be repeated. [IP,IP]:PORT are the addresses of the machine around this node's, as far as it has such ones itself, of IPv4 or IPv6")
	f.StringArrayVar(&c.Bootstrap, "bootstrap", nil, "where to join: a multiaddr with /p2p/ID, /dnsaddr/DOMAIN, or http://HOST:PORT of open ports; may be repeated")
	f.StringArrayVar(&c.AllowPeers, "allow-peer", nil, "peer ID that may connect, in a closed network; may be repeated (default: everyone)")
	f.BoolVar(&c.EncryptTransfers, "encrypt-transfers", false, "send content to peers over encrypted libp2p streams alone, never over plain HTTP")
	f.BoolVar(&c.NAT, "nat", false, "be reached behind a NAT by hole punching and relays, and relay for others")
	f.Var((*byteSize)(&c.UploadLimit), "upload-limit", "bound on bytes per second to peers (0: no bound)")
	f.Var((*byteSize)(&c.DownloadLimit), "download-limit", "bound on bytes per second from peers (0: no bound)")
	f.Var((*byteSize)(&c.PeerLimit), "peer-limit", "bound on bytes per second each way with each peer (0: no bound)")
	f.IntVar(&p2pPort, "p2p-port", 4001, "TCP and UDP port for peers; 0 takes any")
	f.StringVar(&c.OpenAddr, "open-addr", "127.0.0.1:8080", "HOST:PORT of health, metrics, the ledger, and content for peers")
	f.StringVar(&c.MirrorAddr, "mirror-addr", "", "HOST:PORT of the registry mirror, such as 127.0.0.1:5001, or unix:PATH behind 'pyrsia frontend'")
	f.BoolVar(&c.MirrorFallback, "mirror-fallback", false, "mirror: its clients go on to the registry with what is not on the ledger, and are told 404 as by any registry, instead of 403 and why")
	f.StringVar(&c.MirrorCertFile, "mirror-tls-cert", "", "mirror: file with a certificate, to speak TLS on the mirror port")
	f.StringVar(&c.MirrorKeyFile, "mirror-tls-key", "", "mirror: file with its private key")
	f.BoolVar(&c.AccessLog, "access-log", true, "mirror: log each request of a container client")
	f.StringVar(&c.ControlAddr, "control-addr", "", "HOST:PORT of the operator's API")
	f.StringVar(&c.ControlKeyFile, "control-key", "", "file with this node's key for the operator's API")
	f.StringVar(&c.OperatorKeyFile, "operator-key", "", "file with the operator's public key")
	f.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

// listenAddrs are the multiaddrs of all interfaces, IPv4 and IPv6.
func listenAddrs(port int) []string {
	p := strconv.Itoa(port)
	return []string{
		"/ip4/0.0.0.0/tcp/" + p, "/ip6/::/tcp/" + p,
		"/ip4/0.0.0.0/udp/" + p + "/quic-v1", "/ip6/::/udp/" + p + "/quic-v1",
	}
}

// byteSize is a flag for a number of bytes.
type byteSize int64

func (b *byteSize) String() string { return strconv.FormatInt(int64(*b), 10) }

// Type names the value in --help.
func (b *byteSize) Type() string { return "bytes" }

// Set reads a number with an optional binary suffix.
func (b *byteSize) Set(s string) error {
	shift := 0
	for i, suffix := range []string{"Ki", "Mi", "Gi", "Ti"} {
		if rest, ok := strings.CutSuffix(s, suffix); ok {
			s, shift = rest, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > 1<<62>>shift {
		return fmt.Errorf("%q is not a number of bytes", s)
	}
	*b = byteSize(n << shift)
	return nil
}
