// Package catalog finds out which images a selection means: by lists, by rules
// about tags, and by the catalogs of official images that others maintain. It
// may import the control API's types and the ledger's names; publish and
// node/cli call it.
package catalog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	// listAtOnce is how many repositories' tags are listed at the same time.
	listAtOnce = 4
	// maxProblems bounds the parts of a selection that could not be listed.
	maxProblems = maxRepositories
)

// Tags lists the tags that an upstream has of a repository
// ("docker.io/library/alpine"). Its errors are *control.Error where they can be.
type Tags func(ctx context.Context, repository string) ([]string, error)

// Lister lists the images of selections. It is safe for concurrent use.
type Lister struct {
	tags   Tags
	client *http.Client

	mu      sync.Mutex // guards archive
	archive *parsedArchive
}

// NewLister makes a Lister that asks an upstream by tags.
func NewLister(tags Tags) *Lister {
	return &Lister{tags: tags, client: &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 10 * time.Second, Control: notTheCloud}).DialContext,
			TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 30 * time.Second,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > 5 || req.URL.Scheme != "https" && via[0].URL.Scheme == "https" {
				return errors.New("refused: it redirects too often, or out of TLS")
			}
			return nil
		},
	}}
}

// notTheCloud refuses the addresses at which clouds give a machine its credentials,
// whatever name or redirect leads there: the author of a catalog's URL may not be
// entitled to them, and no catalog is served there.
func notTheCloud(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil
	}
	a := at.Addr().Unmap()
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	if a.IsLinkLocalUnicast() || slices.ContainsFunc(cloudOwn, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return fmt.Errorf("refused: %s is a link-local address, or one of a cloud's own, where no catalog is", at.Addr())
	}
	return nil
}

var (
	// cloudOwn are the networks in which AWS (fd00:ec2::254, and ::23 of EKS) and
	// Google Cloud (fd20:ce::254) tell it over IPv6.
	cloudOwn = []netip.Prefix{netip.MustParsePrefix("fd00:ec2::/32"), netip.MustParsePrefix("fd20:ce::/32")}
	// nat64 holds IPv4's addresses in the last four bytes (RFC 6052, section 2.1), for
	// machines without IPv4.
	nat64 = netip.MustParsePrefix("64:ff9b::/96")
)

// List lists the images of a selection: canonical names, sorted. What could
// not be listed is a problem of its own; an error means that nothing could.
func (l *Lister) List(ctx context.Context, s control.Selection) (*control.ListResponse, error) {
	if err := checkPatterns(s.Exclude); err != nil {
		return nil, invalidRequest(err)
	}
	b := &builder{exclude: s.Exclude, images: map[string]bool{}}
	for _, rule := range s.Images {
		for _, tag := range rule.Tags {
			b.add(ctx, rule.Repository+":"+tag)
		}
	}
	if err := l.rules(ctx, b, s.Images); err != nil {
		return nil, err
	}
	if err := l.catalog(ctx, b, s.Catalog); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return b.result()
}

func invalidRequest(err error) error {
	return &control.Error{Reason: control.ReasonInvalidRequest, Message: err.Error()}
}

// rules adds the tags that rules find.
func (l *Lister) rules(ctx context.Context, b *builder, rules []control.ImageRule) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(listAtOnce)
	for _, rule := range rules {
		if !rule.Any() {
			continue
		}
		f, err := newFilter(rule.TagRules)
		if err != nil {
			return invalidRequest(fmt.Errorf("%s: %w", rule.Repository, err))
		}
		group.Go(func() error { l.repository(ctx, b, rule.Repository, f); return nil })
	}
	return group.Wait()
}

func (l *Lister) repository(ctx context.Context, b *builder, repository string, f *filter) {
	image, err := ledger.ParseImage(repository)
	if err != nil {
		b.problem(problem(repository, "InvalidImage", err))
		return
	}
	tags, err := l.tags(ctx, image.Name())
	if err != nil {
		reason := control.ReasonUpstreamUnavailable
		if refusal, ok := errors.AsType[*control.Error](err); ok {
			reason, err = refusal.Reason, errors.New(refusal.Message)
		}
		b.problem(problem(image.Name(), reason, err))
		return
	}
	for _, tag := range f.apply(tags) {
		b.add(ctx, repository+":"+tag)
	}
}

func (l *Lister) catalog(ctx context.Context, b *builder, c *control.Catalog) error {
	switch {
	case c == nil:
		return nil
	case c.Archive != nil:
		images, problems, err := l.archiveImages(ctx, *c.Archive)
		if err != nil {
			return &control.Error{Reason: control.ReasonCatalogInvalid, Message: err.Error()}
		}
		for _, image := range images {
			b.add(ctx, image)
		}
		for _, p := range problems {
			b.problem(p)
		}
		return nil
	case c.DockerHub != nil:
		return l.dockerHub(ctx, b, *c.DockerHub)
	}
	return invalidRequest(errors.New("catalog: give archive or dockerHub"))
}

// builder collects what a selection holds.
type builder struct {
	exclude []string

	mu       sync.Mutex // guards what follows
	images   map[string]bool
	problems []control.Problem
}

// add adds an image. It fails when the request has ended, because the result is
// not needed then.
func (b *builder) add(ctx context.Context, name string) {
	if ctx.Err() != nil {
		return
	}
	image, err := ledger.ParseImage(name)
	if err == nil && image.Matches(b.exclude) {
		return
	}
	if err != nil {
		b.problem(problem(name, "InvalidImage", err))
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.images) <= control.MaxImages { // one more tells that there are too many
		b.images[image.String()] = true
	}
}

func (b *builder) problem(p control.Problem) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.problems) <= maxProblems {
		b.problems = append(b.problems, p)
	}
}

func (b *builder) result() (*control.ListResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.images) > control.MaxImages {
		return nil, control.TooManyImages()
	}
	if len(b.problems) > maxProblems {
		return nil, &control.Error{Reason: b.problems[0].Reason,
			Message: fmt.Sprintf("more than %d parts of the selection could not be listed, one of them %s: %s", maxProblems, b.problems[0].What, b.problems[0].Message)}
	}
	out := &control.ListResponse{Images: make([]string, 0, len(b.images)), Problems: b.problems}
	for image := range b.images {
		out.Images = append(out.Images, image)
	}
	slices.Sort(out.Images)
	slices.SortFunc(out.Problems, func(a, b control.Problem) int { return strings.Compare(a.What, b.What) })
	return out, nil
}
