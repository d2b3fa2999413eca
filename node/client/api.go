package client

import (
	"context"
	"net/url"
	"strconv"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// Status is how a node is: the answer of GET /api/v1/status.
type Status struct {
	Role    string   `json:"role"`
	Version string   `json:"version"`
	PeerID  string   `json:"peerID"`
	Addrs   []string `json:"addrs"`
	// Uptime is in seconds.
	Uptime float64 `json:"uptime"`
	Ready  bool    `json:"ready"`
	Peers  int     `json:"peers"`
	// Ledger is the ledger's name, and Blocks how many blocks of it are verified.
	Ledger string `json:"ledger"`
	Blocks int64  `json:"blocks"`
	// LedgerKey is the verifier key that signs the ledger now: the newest that this
	// node has seen.
	LedgerKey string `json:"ledgerKey"`
	// Blobs and Bytes are in the store.
	Blobs int   `json:"blobs"`
	Bytes int64 `json:"bytes"`
	// Artifacts of which the node holds something, and the keys by which it
	// announces them, which stay few.
	Artifacts int `json:"artifacts"`
	Announced int `json:"announced"`
	// Downloads are blobs on their way, and Queued their pieces to come.
	Downloads int `json:"downloads"`
	Queued    int `json:"queued"`
	// Asked is when containerd asked this mirror last, by registry: RFC 3339.
	Asked map[string]time.Time `json:"asked,omitempty"`
	// Problems are places from which the ledger does not come.
	Problems []Problem `json:"problems,omitempty"`
}

// Problem is a place from which the ledger does not come: a bootstrap address, a
// ledger URL or a peer's ID.
type Problem struct {
	Source string `json:"source"`
	Error  string `json:"error"`
	// Since is when it began: RFC 3339.
	Since time.Time `json:"since"`
	Tries int       `json:"tries"`
}

// Peer is one peer of a node, of the answer of GET /api/v1/peers.
type Peer struct {
	ID string `json:"id"`
	// Addr is the multiaddr that the peer is connected at.
	Addr string `json:"addr"`
	// Direction is inbound or outbound.
	Direction string `json:"direction"`
	// Latency is in seconds; 0 until it was measured.
	Latency float64 `json:"latency"`
	// Since is when the peer was connected: RFC 3339.
	Since time.Time `json:"since"`
	// Via is how content comes from it: http or libp2p.
	Via string `json:"via"`
	// Received is how many verified bytes came from it.
	Received int64 `json:"received"`
	// State is ok, slow (asked after the others) or banned (not asked).
	State string `json:"state"`
}

// AskedPath is where a mirror says, to GET at the port of container clients, what
// containerd has asked it for (Asked, as JSON).
const AskedPath = "/.well-known/pyrsia-asked"

// Asked is when containerd asked a mirror last, by the registry that it meant:
// proof that it follows the set-up of that one. The opposite proves nothing,
// because there may have been no pull.
type Asked struct {
	// Since is when the mirror began to take note.
	Since      time.Time            `json:"since"`
	Registries map[string]time.Time `json:"registries"`
}

// Status tells how the node is.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	err = c.question(ctx, "api/v1/status", &s)
	return s, err
}

// Peers lists the peers that the node is connected to.
func (c *Client) Peers(ctx context.Context) (peers []Peer, err error) {
	err = c.question(ctx, "api/v1/peers", &peers)
	return peers, err
}

// Evidence lists what the node has refused of the ledger, the oldest first.
func (c *Client) Evidence(ctx context.Context) (evidence []ledger.Evidence, err error) {
	err = c.question(ctx, "api/v1/evidence", &evidence)
	return evidence, err
}

// Block reads the block at a height with its proof.
func (c *Client) Block(ctx context.Context, height int64) (b ledger.BlockJSON, err error) {
	err = c.question(ctx, "api/v1/blocks/"+strconv.FormatInt(height, 10), &b)
	return b, err
}

// Asked tells what containerd has asked a mirror for. The Client's URL is that of
// the port for container clients.
func (c *Client) Asked(ctx context.Context) (a Asked, err error) {
	err = c.question(ctx, AskedPath[1:], &a)
	return a, err
}

// Query selects blocks: those of an image, or those that name a digest.
type Query struct {
	Image  string // "docker.io/library/alpine:3.20"
	Digest string // "sha256:..."; its first ledger.MinDigits digits or more will do
	// Limit bounds how many blocks are listed; 0 is ledger.MaxArtifacts, the most.
	Limit int
	// Before is the height below which blocks are listed; 0 is no bound.
	Before int64
}

// Blocks lists the blocks that a query selects, newest first and without proofs.
func (c *Client) Blocks(ctx context.Context, q Query) (blocks []ledger.BlockJSON, err error) {
	ask := url.Values{}
	if q.Image != "" {
		ask.Set("image", q.Image)
	}
	if q.Digest != "" {
		ask.Set("digest", q.Digest)
	}
	if q.Limit > 0 {
		ask.Set("n", strconv.Itoa(q.Limit))
	}
	if q.Before > 0 {
		ask.Set("before", strconv.FormatInt(q.Before, 10))
	}
	err = c.question(ctx, "api/v1/artifacts?"+ask.Encode(), &blocks)
	return blocks, err
}

// Newest lists up to limit blocks of all types below a height, newest first and
// without proofs; 0 is no bound, and ledger.MaxArtifacts blocks.
func (c *Client) Newest(ctx context.Context, before int64, limit int) (blocks []ledger.BlockJSON, err error) {
	ask := url.Values{}
	if limit > 0 {
		ask.Set("n", strconv.Itoa(limit))
	}
	if before > 0 {
		ask.Set("before", strconv.FormatInt(before, 10))
	}
	err = c.question(ctx, "api/v1/blocks?"+ask.Encode(), &blocks)
	return blocks, err
}
