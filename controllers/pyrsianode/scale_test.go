package pyrsianode

import (
	"encoding/json"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// The status of a mirror on 1,000 Kubernetes nodes, each with an alarm, an
// address and a trouble of its own, is no larger than that of one on 10.
func TestStatusOfAThousandNodes(t *testing.T) {
	b := fixtures.NewBook(t).Add(t, "a", "b")
	said := b.Status(t, 0)
	size := func(pods int) int {
		n := fixtures.Node(v1alpha1.RoleMirror, "mirror")
		reports, list := make([]report, pods), make([]corev1.Pod, pods)
		for i := range reports {
			reports[i] = judge(n.Spec.Role, b.Key, nil, &control.Status{
				PeerID: "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA", Peers: i, Ledger: said,
				Alarms: []control.Alarm{{Kind: control.AlarmDiskFull}, {Kind: control.AlarmLedgerStale}},
			})
			reports[i].pod, reports[i].nodeIPs = fmt.Sprintf("mirror-%04d", i), []string{fmt.Sprintf("10.0.%d.%d", i/256, i%256), fmt.Sprintf("2001:db8::%x", i)}
			list[i].Name = reports[i].pod
			list[i].Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "node", RestartCount: 9}}
		}
		record(n, reports)
		recordAddresses(n, reports, desired.Outside{Port: desired.PortP2P})
		recordPeers(n, reports)
		setAlarms(n, reports)
		n.Status.Nodes = &v1alpha1.NodeCounts{Desired: 1000, Ready: 999, Configured: objects.CountIf(list, objects.SetUp)}
		judgeWorkload(n, list, nil)
		status.Summarize(n, v1alpha1.NodeRemarks, nil)
		if n.Status.Ledger.Size != 2 || len(n.Status.Addresses) != maxAddresses || len(n.Status.Conditions) < 5 {
			t.Fatalf("the status tells too little: %+v", n.Status)
		}
		data, err := json.Marshal(n)
		if err != nil {
			t.Fatal(err)
		}
		return len(data)
	}
	few, many := size(10), size(1000)
	t.Logf("%d bytes with 10 pods, %d with 1,000", few, many)
	if many > few+64 || many > 16<<10 { // the numbers in messages have more digits
		t.Errorf("the object has %d bytes with 10 pods, and %d with 1,000", few, many)
	}
}
