package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/internal/bounded"
)

// maxBody bounds what either side reads of the other: a list of MaxImages
// names is the largest message.
const maxBody = 16 << 20

// maxValues bounds the JSON values that either side reads from the other: a
// node that was taken over must not exhaust the operator's memory.
const maxValues = 4 * MaxImages

// Client calls the control API of one node. It is safe for concurrent use.
type Client struct {
	http *http.Client
	base string
}

// NewClient makes a client of the node at addr ("10.0.0.7:9443").
func NewClient(addr string, keys Keys) (*Client, error) {
	tlsConfig, err := keys.ClientTLS()
	if err != nil {
		return nil, err
	}
	return &Client{
		base: "https://" + addr,
		http: &http.Client{
			Timeout: 30 * time.Second,
			Transport: &http.Transport{
				TLSClientConfig:     tlsConfig,
				DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
				TLSHandshakeTimeout: 5 * time.Second,
				IdleConnTimeout:     time.Minute,
				MaxIdleConnsPerHost: 64, // as many calls as the operator makes to one node at the same time
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Close gives the client's idle connections back.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks for the node's state, with a proof that its ledger extends the
// first since blocks.
func (c *Client) Status(ctx context.Context, since int64) (*Status, error) {
	return call[Status](ctx, c, http.MethodGet, "/v1/status?since="+strconv.FormatInt(since, 10), nil)
}

// Resolve asks the publisher to which digest the upstream resolves an image.
func (c *Client) Resolve(ctx context.Context, req ResolveRequest) (*ResolveResponse, error) {
	return call[ResolveResponse](ctx, c, http.MethodPost, "/v1/resolve", req)
}

// Publish starts a publication, or tells how far it is.
func (c *Client) Publish(ctx context.Context, req PublishRequest) (*PublishResponse, error) {
	return call[PublishResponse](ctx, c, http.MethodPost, "/v1/publish", req)
}

// List asks the publisher which images a selection holds.
func (c *Client) List(ctx context.Context, req ListRequest) (*ListResponse, error) {
	return call[ListResponse](ctx, c, http.MethodPost, "/v1/list", req)
}

// Drop lets the publisher free the content of images.
func (c *Client) Drop(ctx context.Context, req DropRequest) (*DropResponse, error) {
	return call[DropResponse](ctx, c, http.MethodPost, "/v1/drop", req)
}

// call makes one request. A refusal by the node is an *Error; any other error
// means that the node could not be asked.
func call[T any](ctx context.Context, c *Client, method, path string, body any) (*T, error) {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encoding the request for %s: %w", path, err)
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, in)
	if err != nil {
		return nil, fmt.Errorf("asking the node: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the node: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return nil, fmt.Errorf("reading the node's answer to %s: %w", path, err)
	}
	if len(data) > maxBody {
		return nil, fmt.Errorf("the node's answer to %s is larger than %d bytes", path, maxBody)
	}
	if resp.StatusCode != http.StatusOK {
		refusal := new(Error)
		if err := bounded.Unmarshal(data, maxValues, refusal); err != nil || refusal.Reason == "" {
			return nil, fmt.Errorf("the node answered %s with %s and no reason", path, resp.Status)
		}
		return nil, refusal
	}
	out := new(T)
	if err := bounded.Unmarshal(data, maxValues, out); err != nil {
		return nil, fmt.Errorf("the node's answer to %s: %w", path, err)
	}
	return out, nil
}
