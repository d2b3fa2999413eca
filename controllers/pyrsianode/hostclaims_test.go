package pyrsianode

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
)

// One namespace cannot fill the record, which all share.
func TestRecordHasRoomForOthers(t *testing.T) {
	all := map[types.UID]recorded{}
	for i := range maxRecorded {
		all[types.UID(fmt.Sprint(i))] = recorded{PyrsiaNode: fmt.Sprint("images/", i)}
	}
	n, there := fixtures.Node(v1alpha1.RoleMirror, "mirror"), func(types.UID, recorded) bool { return false }
	if got := crowded(n, nil, all, there); len(got) != 1 || !strings.Contains(got[0].why, "delete one") {
		t.Errorf("one more: %+v", got)
	}
	if got := crowded(n, new(recorded), all, there); len(got) > 0 {
		t.Errorf("one that is there: %+v", got)
	}
	if got := crowded(n, nil, all, func(uid types.UID, _ recorded) bool { return uid == "7" || uid == "8" }); len(got) > 0 {
		t.Errorf("after others have gone: %+v", got)
	}
	n.Namespace = "others"
	if got := crowded(n, nil, all, there); len(got) > 0 {
		t.Errorf("another namespace: %+v", got)
	}
}
