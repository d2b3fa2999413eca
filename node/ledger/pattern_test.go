package ledger

import "testing"

func TestImagesByPattern(t *testing.T) {
	for _, tc := range []struct {
		image, pattern string
		want           bool
	}{
		{"alpine:3.20", "alpine:*", true},
		{"docker.io/library/alpine:3.20", "alpine:3.2?", true},
		{"alpine:3.20", "alpine", false},
		{"alpine:3.20", "*:*", true},
		{"bitnami/redis:7", "*:*", false},
		{"bitnami/redis:7", "bitnami/*:*", true},
		{"ghcr.io/owner/app:v1", "ghcr.io/owner/*:v1", true},
		{"ghcr.io/owner/app:v1", "owner/*:v1", false},
	} {
		image, err := ParseImage(tc.image)
		if err != nil {
			t.Fatal(err)
		}
		if got := image.Matches([]string{"other:*", tc.pattern}); got != tc.want {
			t.Errorf("%q means %s: %v", tc.pattern, tc.image, got)
		}
	}
	for pattern, good := range map[string]bool{"alpine:*": true, "": false, "alpine:[": false} {
		if err := CheckPattern(pattern); (err == nil) != good {
			t.Errorf("pattern %q: %v", pattern, err)
		}
	}
}
