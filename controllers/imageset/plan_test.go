package imageset

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pyrsia/pyrsia-operator/node/control"
)

// A list that needs no requests leaves out what is excluded.
func TestListsLeaveOutWhatIsExcluded(t *testing.T) {
	t.Parallel()
	got, problems, err := explicit(&control.Selection{
		Images:  []control.ImageRule{{Repository: "alpine", Tags: []string{"1", "2-windows"}}, {Repository: "clefos", Tags: []string{"1"}}},
		Exclude: []string{"alpine:*-windows", "clefos:*"},
	})
	if diff := cmp.Diff([]string{"docker.io/library/alpine:1"}, got); diff != "" || len(problems) > 0 || err != nil {
		t.Errorf("%v, %v (-want +got):\n%s", problems, err, diff)
	}
}
