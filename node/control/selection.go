package control

import "fmt"

// Selection says which images to publish. Its members are those of an
// OfficialImageSet's spec, so that 'pyrsia plan' reads either.
type Selection struct {
	Images  []ImageRule `json:"images,omitempty"`
	Catalog *Catalog    `json:"catalog,omitempty"`
	// Exclude are patterns of images to leave out, such as "golang:*-windows*"
	// or "clefos:*": * stands for any characters but '/'.
	Exclude []string `json:"exclude,omitempty"`
}

// ImageRule selects tags of one repository: those listed, and those that the
// rules find among the tags that the upstream has.
type ImageRule struct {
	Repository string   `json:"repository"`
	Tags       []string `json:"tags,omitempty"`
	TagRules
}

// TagRules find tags. One that is set narrows what those before it found.
type TagRules struct {
	// Semver is a range of versions: ">=3.18 <4". Pre-releases, which include
	// variants such as 3.20-slim, count only if the range names one.
	Semver string `json:"semver,omitempty"`
	// Regexp must match the whole tag (RE2).
	Regexp string `json:"regexp,omitempty"`
	// Exclude are patterns of tags to leave out: "*-rc*".
	Exclude []string `json:"exclude,omitempty"`
	// Newest keeps that many of the highest versions; tags that are not
	// versions are left out.
	Newest int `json:"newest,omitempty"`
}

// Any tells whether a rule is set.
func (r TagRules) Any() bool {
	return r.Semver != "" || r.Regexp != "" || len(r.Exclude) > 0 || r.Newest > 0
}

// Catalog is a list of official images that others keep. One of its members
// is set.
type Catalog struct {
	Archive   *Archive   `json:"archive,omitempty"`
	DockerHub *DockerHub `json:"dockerHub,omitempty"`
}

// Archive is a .tar.gz with the files library/NAME of
// docker-library/official-images, at a commit of it.
type Archive struct {
	URL string `json:"url"`
	// SHA256 is that of the archive, in hexadecimal.
	SHA256 string `json:"sha256"`
}

// DockerHub takes the repositories that Docker Hub lists in a namespace, and
// of each the tags that the rules find.
type DockerHub struct {
	Namespace string `json:"namespace,omitempty"` // "library" if it is empty
	// Endpoint is the URL of the listing API; https://hub.docker.com if it is empty.
	Endpoint string `json:"endpoint,omitempty"`
	TagRules
}

// NeedsUpstream tells whether registries or catalogs have to be asked what is
// selected.
func (s *Selection) NeedsUpstream() bool {
	if s.Catalog != nil {
		return true
	}
	for _, i := range s.Images {
		if i.Any() {
			return true
		}
	}
	return false
}

// ListRequest is the body of POST /v1/list: which images does a selection hold
// now? Publishers only.
type ListRequest struct {
	Selection Selection `json:"selection"`
}

// MaxImages bounds what one selection may hold.
const MaxImages = 50_000

// TooManyImages refuses a selection that holds more than MaxImages.
func TooManyImages() *Error {
	return &Error{Reason: ReasonInvalidRequest, Message: fmt.Sprintf("the selection holds more than %d images: exclude some, or make several sets of it", MaxImages)}
}

// ListResponse is the answer, sorted.
type ListResponse struct {
	// Images are canonical names: "docker.io/library/alpine:3.20".
	Images []string `json:"images"`
	// Problems are what could not be listed, and why; the other images stand.
	Problems []Problem `json:"problems,omitempty"`
}

// Problem is a part of a selection that could not be listed.
type Problem struct {
	What string `json:"what"` // a repository, an image or a catalog
	Error
}

// RateLimit is what an upstream said last about its limits.
type RateLimit struct {
	Limit         int `json:"limit"` // pulls in a window
	Remaining     int `json:"remaining"`
	WindowSeconds int `json:"windowSeconds"`
	// RetryAfterSeconds is how long the upstream wants to be left alone.
	RetryAfterSeconds int `json:"retryAfterSeconds,omitempty"`
}

// DropRequest is the body of POST /v1/drop: the content of these images is no
// longer needed. Their blocks stay; content that other images share stays too,
// and publishing one of them again fetches its content again. Publishers only.
type DropRequest struct {
	Artifacts []ArtifactID `json:"artifacts"`
}

// ArtifactID names an image with a digest.
type ArtifactID struct {
	Image  string `json:"image"`
	Digest string `json:"digest"`
}

// MaxDrop bounds the images of one DropRequest.
const MaxDrop = 1000

// DropResponse tells what was freed.
type DropResponse struct {
	Blobs int   `json:"blobs"`
	Bytes int64 `json:"bytes"`
}
