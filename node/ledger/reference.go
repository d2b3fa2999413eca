package ledger

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

const (
	// MinDigits is how many digits of a digest lead to it: as many as
	// 'docker images' shows, and as the index's keys hold.
	MinDigits    = 12
	digestDigits = 64
	maxReference = 1024 // bytes
)

// Reference is an image as people name one: by a name, by a digest or an image
// ID, which may be cut to its first digits, or by both. All such names are
// parsed here, for questions to a node and for offline checks.
type Reference struct {
	// Names are the images that the name may mean, the likeliest first. An empty
	// Tag is any tag: docker ignores a tag beside a digest, and a name without
	// one means any.
	Names []Image
	// Digits are the first 12 to 64 of a SHA-256 digest; empty: a name alone.
	Digits string
	// named tells that the name stands beside the digits; else what is there may
	// be either.
	named bool
	text  string
}

// ReferenceError says why a text names no single image, and what would.
type ReferenceError struct{ Text, Found string }

func (e *ReferenceError) Error() string {
	return fmt.Sprintf("%.200q %s: give one image as NAME:TAG, NAME@sha256:DIGITS or NAME:TAG@sha256:DIGITS, or at least %d digits of its image ID or digest ('docker images --no-trunc --digests', 'crictl images --no-trunc' and a pod's imageID show them)",
		e.Text, e.Found, MinDigits)
}

// ParseReference reads what people paste: "alpine:3.20", "alpine@sha256:...",
// "sha256:...", "5b3e6f1a2b3c", or the name by which an image was pulled from a
// mirror on the machine, "127.0.0.1:5001/library/alpine:3.20". The error is a
// *ReferenceError.
func ParseReference(text string) (*Reference, error) {
	s := strings.Trim(strings.TrimSpace(text), "\"'`")
	fail := func(found string, args ...any) (*Reference, error) {
		return nil, &ReferenceError{text, fmt.Sprintf(found, args...)}
	}
	for _, scheme := range []string{"docker-pullable://", "docker-image://", "docker://"} { // of pods' imageIDs, BuildKit and skopeo
		if rest, ok := strings.CutPrefix(s, scheme); ok && !isDigits(rest) { // docker://DIGITS is a container
			s = rest
		}
	}
	switch {
	case s == "":
		return fail("names no image")
	case len(s) > maxReference:
		return fail("has %d bytes", len(s))
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return fail("is more than one word")
	case strings.Contains(s, "…") || strings.Contains(s, "..."):
		return fail("is cut off")
	case strings.Contains(s, "<none>"):
		return fail("is what docker shows where there is no name")
	case strings.Contains(s, "://"):
		return fail("is a URL, or a container's ID")
	}
	name, digits, named := strings.Cut(s, "@")
	if !named {
		digits = s
	}
	digits, marked := cutAlgorithm(digits)
	switch {
	case named && !marked:
		return fail("has no sha256:DIGITS behind the @")
	case !marked && (!isDigits(s) || len(s) < MinDigits):
		names, err := namesMeant(s, "latest")
		if err != nil {
			return fail("is no image's name (%v)", err)
		}
		return &Reference{Names: names, text: s}, nil
	}
	if found := wrongDigits(digits); found != "" {
		return fail("%s", found)
	}
	r := &Reference{Digits: strings.ToLower(digits), named: named, text: s}
	var err error
	switch {
	case named:
		if r.Names, err = namesMeant(name, ""); err != nil {
			return fail("has no image's name before the @ (%v)", err)
		}
	case !marked && len(s) < digestDigits:
		r.Names, _ = namesMeant(s, "latest") // a repository may have such a name
	}
	return r, nil
}

// cutAlgorithm takes the digits out of "sha256:DIGITS".
func cutAlgorithm(s string) (digits string, ok bool) {
	const algorithm = "sha256:"
	if len(s) >= len(algorithm) && strings.EqualFold(s[:len(algorithm)], algorithm) {
		return s[len(algorithm):], true
	}
	return s, false
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789abcdefABCDEF") == "" }

// wrongDigits says why digits lead to no digest.
func wrongDigits(digits string) string {
	switch {
	case !isDigits(digits):
		return "has something else than hexadecimal digits in its digest"
	case len(digits) < MinDigits:
		return fmt.Sprintf("has %d digits of its digest alone", len(digits))
	case len(digits) > digestDigits:
		return fmt.Sprintf("has %d digits in its digest, which has %d", len(digits), digestDigits)
	}
	return ""
}

// namesMeant are the images that a name may mean, with a tag for one without:
// itself, and, if its registry is a port of this machine, what a mirror at that
// port serves under it.
func namesMeant(name, tag string) (out []Image, err error) {
	tagged := strings.Contains(name[strings.LastIndexByte(name, '/')+1:], ":")
	literal, err := ParseImage(name)
	if err == nil {
		out = append(out, literal)
	}
	if host, rest, ok := strings.Cut(name, "/"); ok && isLoopback(host) {
		if first, _, ok := strings.Cut(rest, "/"); !ok || !isHost(first) {
			rest = dockerHub + "/" + rest
		}
		if through, terr := ParseImage(rest); terr == nil {
			out, err = append(out, through), nil
		}
	}
	if err != nil {
		return nil, err
	}
	for i := range out {
		if !tagged {
			out[i].Tag = tag
		}
	}
	return out, nil
}

// isLoopback tells a port of this machine: where mirrors are.
func isLoopback(host string) bool {
	at := strings.LastIndexByte(host, ':')
	if at < 0 {
		return false
	}
	name := strings.Trim(host[:at], "[]")
	addr, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && addr.IsLoopback()
}

// String is what was read.
func (r *Reference) String() string { return r.text }

// Digest is what the digits begin; Whole tells whether they are all of it.
func (r *Reference) Digest() digest.Digest {
	if r.Digits == "" {
		return ""
	}
	return digest.NewDigestFromEncoded(digest.SHA256, r.Digits)
}

// Whole tells whether all digits of a digest are there.
func (r *Reference) Whole() bool { return len(r.Digits) == digestDigits }

// Named tells whether a name was given: alone, or beside a digest.
func (r *Reference) Named() bool { return r.named || r.Digits == "" }

// Means tells whether an artifact has one of the names.
func (r *Reference) Means(artifact string) bool {
	image, err := ParseImage(artifact)
	return err == nil && slices.ContainsFunc(r.Names, func(n Image) bool {
		return n.Name() == image.Name() && (n.Tag == "" || n.Tag == image.Tag)
	})
}

// IsShortID tells what may be the name of a repository or too few digits of an ID.
func IsShortID(s string) bool { return isDigits(s) && len(s) < MinDigits }

// CutDigest gives the digits of a digest that is cut, and lead to it still.
func CutDigest(d digest.Digest) (digits string, cut bool) {
	digits, _ = cutAlgorithm(string(d))
	return strings.ToLower(digits), isDigits(digits) && MinDigits <= len(digits) && len(digits) < digestDigits
}
