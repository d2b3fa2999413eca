package pullhistory

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestHistoryOfPulls(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	ago := func(image string, d time.Duration) pull { return pull{key: pullKey{image: image}, last: now.Add(-d)} }
	for name, tc := range map[string]struct {
		limit       int
		keep, leave []string
	}{
		"by age":   {10, []string{"c", "a", "b"}, []string{"d"}},
		"by count": {2, []string{"c", "a"}, []string{"b", "d"}},
		"none":     {0, nil, []string{"c", "a", "b", "d"}},
	} {
		t.Run(name, func(t *testing.T) {
			pulls := []pull{ago("b", 3*time.Hour), ago("a", 2*time.Hour), ago("d", 25*time.Hour), ago("c", time.Hour)}
			keep, leave := history(pulls, tc.limit, 24*time.Hour, now)
			names := func(pulls []pull) (out []string) {
				for _, p := range pulls {
					out = append(out, p.key.image)
				}
				return out
			}
			if diff := cmp.Diff([][]string{tc.keep, tc.leave}, [][]string{names(keep), names(leave)}); diff != "" {
				t.Error(diff)
			}
		})
	}
}
