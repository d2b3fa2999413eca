// Package node is a Pyrsia node: the ledger, its place in the peer-to-peer
// network, and what its role adds. A publisher copies images from upstream
// registries; a mirror serves container clients. It puts the packages below
// node/internal together and imports no Kubernetes; node/cli runs it.
package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/bucket"
	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
	"github.com/pyrsia/pyrsia-operator/node/internal/publish"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// Version is the program's version; the linker sets it.
var Version = "dev"

// Config says what a node is and where it listens. Addresses are HOST:PORT;
// an empty one is not served.
type Config struct {
	Role    control.Role
	DataDir string
	// SigningKeyFile holds the ledger's signing key. Publishers only.
	SigningKeyFile string
	// NextSigningKeyFile holds the key to which the ledger is to be handed over.
	// Publishers only.
	NextSigningKeyFile string
	// LedgerKey is the verifier key of the ledger to follow. Mirrors only.
	LedgerKey string
	// LedgerURLs are further copies of the ledger to follow, at any server of
	// c2sp.org/tlog-tiles. Mirrors only.
	LedgerURLs []string
	// MaxLedgerAge is from which age on the newest checkpoint is called stale;
	// 0 is never. Mirrors only.
	MaxLedgerAge time.Duration
	// RefuseStaleTags makes a mirror refuse tags while the ledger is older than
	// that; pulls by digest are served.
	RefuseStaleTags bool
	// Upstreams maps a registry's name ("docker.io") to the URL that its
	// images are copied from. Publishers only.
	Upstreams map[string]string
	// UpstreamSecrets is a folder with a folder for each registry that has
	// credentials or a CA: username and password, or .dockerconfigjson; ca.crt.
	// Publishers only.
	UpstreamSecrets string
	// UpstreamPrivate are patterns REGISTRY/REPOSITORY of private images that are
	// published, and so made public. Publishers only.
	UpstreamPrivate []string
	// CopyConcurrency is how many images are copied in parallel, 0 for the
	// default, and UpstreamLimit bounds the downloads from all upstreams
	// together, in bytes per second; 0 means unlimited. Publishers only.
	CopyConcurrency int
	UpstreamLimit   int64
	// OnPullAllow are patterns of images that a publisher publishes when they
	// are pulled from its mirror port, at most OnPullPerHour in an hour.
	OnPullAllow   []string
	OnPullPerHour int
	// AttachmentsEvery is how often a publisher looks for signatures and
	// attestations that were added to an image after it was published; 0 is once a
	// day.
	AttachmentsEvery time.Duration
	// Bucket is an S3-compatible bucket that keeps a publisher's content for
	// good, s3://BUCKET/PREFIX?endpoint=URL&region=REGION, and BucketSecrets a
	// folder with its keys and its CA: see bucket.Config. Publishers only.
	Bucket        string
	BucketSecrets string
	// CacheSize bounds the content on disk in bytes, of a mirror or of a
	// publisher with a bucket; 0 is no bound.
	CacheSize int64
	// Prefetch are patterns of images that a mirror fetches as soon as they are
	// on the ledger, for this machine's platform: see ledger.Image.Matches.
	Prefetch []string

	P2PListen []string // multiaddrs
	// ExternalAddrs are further addresses HOST:PORT, TCP, at which peers reach this
	// node: outside of a cluster or a NAT.
	ExternalAddrs []string
	// Bootstrap is where to join: multiaddrs with /p2p/ID, /dnsaddr/DOMAIN, or
	// http://HOST:PORT of the open ports of nodes, such as a headless Service.
	Bootstrap  []string
	AllowPeers []string // peer IDs of a closed network; none admits everyone
	// EncryptTransfers has content go between peers over libp2p's encrypted
	// streams alone, and never over plain HTTP.
	EncryptTransfers bool
	// NAT makes a node behind a NAT reachable by hole punching and relays, and
	// makes others relay.
	NAT bool
	// UploadLimit, DownloadLimit and PeerLimit bound the traffic with peers, in
	// bytes per second: of the whole node, and in each direction with each
	// peer. 0 means unlimited.
	UploadLimit, DownloadLimit, PeerLimit int64

	OpenAddr string // health, metrics, the ledger and content for peers
	// MirrorAddr is the registry mirror for container clients, or unix:PATH of
	// a socket behind a socket proxy, which no other node may have.
	MirrorAddr string
	// MirrorFallback says that the mirror's clients ask the registry for what is
	// not on the ledger, and so get a plain 404 for it.
	MirrorFallback bool
	// MirrorCertFile and MirrorKeyFile, PEM, make the mirror use TLS. They are
	// read again when they change.
	MirrorCertFile string
	MirrorKeyFile  string
	// AccessLog has a line for each request of a container client.
	AccessLog      bool
	ControlAddr    string // the operator's API
	ControlKeyFile string // this node's private key for it, PEM
	// OperatorKeyFile holds the public keys of the one caller of that API, PEM:
	// more than one while they are rotated. Both files are read again when they
	// change.
	OperatorKeyFile string

	Logger *slog.Logger
}

func (c *Config) validate() error {
	var errs []error
	if c.DataDir == "" {
		errs = append(errs, errors.New("the data folder must be given"))
	}
	switch c.Role {
	case control.Publisher:
		if c.SigningKeyFile == "" {
			errs = append(errs, errors.New("a publisher needs the ledger's signing key: 'pyrsia keygen' makes one"))
		}
		if c.LedgerKey != "" || len(c.LedgerURLs) > 0 || c.MaxLedgerAge != 0 || c.RefuseStaleTags {
			errs = append(errs, errors.New("a publisher has its own ledger, and follows none"))
		}
		if len(c.Prefetch) > 0 {
			errs = append(errs, errors.New("a publisher has all that it publishes, and prefetches nothing"))
		}
		for _, pattern := range c.UpstreamPrivate {
			errs = append(errs, publish.CheckPrivate(pattern))
		}
		if len(c.OnPullAllow) > 0 && c.MirrorAddr == "" {
			errs = append(errs, errors.New("a publisher that publishes on pull needs the address of its mirror port"))
		}
	case control.Mirror:
		if c.SigningKeyFile != "" || c.NextSigningKeyFile != "" || len(c.Upstreams) > 0 || len(c.OnPullAllow) > 0 {
			errs = append(errs, errors.New("a mirror signs nothing and asks no upstream"))
		}
		if _, err := ledger.NewVerifier(c.LedgerKey); err != nil {
			errs = append(errs, err)
		}
		for _, pattern := range c.Prefetch {
			errs = append(errs, ledger.CheckPattern(pattern))
		}
		if c.RefuseStaleTags && c.MaxLedgerAge == 0 {
			errs = append(errs, errors.New("to refuse tags of a stale ledger takes its greatest age"))
		}
		if c.MaxLedgerAge != 0 && c.MaxLedgerAge < 2*replica.RefreshInterval {
			errs = append(errs, fmt.Errorf("the ledger's greatest age of %s: at least %s, for a publisher signs every %s", c.MaxLedgerAge, 2*replica.RefreshInterval, replica.RefreshInterval))
		}
		for _, s := range c.LedgerURLs {
			if u, err := url.Parse(s); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
				errs = append(errs, fmt.Errorf("ledger URL %q: want http://HOST:PORT or https://HOST/PATH", s))
			}
		}
		if c.Bucket != "" {
			errs = append(errs, errors.New("a bucket is for a publisher: a mirror's content is a cache"))
		}
	default:
		errs = append(errs, fmt.Errorf("role %q: want %s or %s", c.Role, control.Publisher, control.Mirror))
	}
	if strings.HasPrefix(c.MirrorAddr, unixPrefix) && c.MirrorCertFile != "" {
		errs = append(errs, errors.New("the mirror speaks no TLS at a Unix socket"))
	}
	if c.Bucket != "" {
		errs = append(errs, bucket.Check(c.Bucket))
	} else if c.BucketSecrets != "" {
		errs = append(errs, errors.New("secrets of a bucket, and no bucket"))
	}
	if c.AttachmentsEvery != 0 && c.AttachmentsEvery < time.Second {
		errs = append(errs, fmt.Errorf("attachments are looked for every %s: want 1s or more", c.AttachmentsEvery))
	}
	if (c.MirrorCertFile == "") != (c.MirrorKeyFile == "") {
		errs = append(errs, errors.New("TLS on the mirror's port needs a certificate and its key together"))
	}
	if (c.ControlAddr == "") != (c.ControlKeyFile == "") || (c.ControlAddr == "") != (c.OperatorKeyFile == "") {
		errs = append(errs, errors.New("the control API needs an address, this node's key and the operator's key together"))
	}
	return errors.Join(errs...)
}

// signingKey reads the signing key, and the next one if there is one.
func (c *Config) signingKey() (string, error) {
	var keys []string
	for _, file := range []string{c.SigningKeyFile, c.NextSigningKeyFile} {
		if file == "" {
			continue
		}
		data, err := durable.Read(file)
		if err != nil {
			return "", fmt.Errorf("reading the signing key: %w", err)
		}
		keys = append(keys, strings.TrimSpace(string(data)))
	}
	return strings.Join(keys, "\n"), nil
}
