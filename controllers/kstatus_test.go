package controllers_test

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// onlooker does what `flux` and `kubectl wait` do, all the while that the
// package's tests run: it makes out what state each object is in, by the library
// kstatus, at every change of it.
type onlooker struct {
	stop context.CancelFunc

	mu     sync.Mutex // guards what follows
	seen   map[status.Status]int
	faults []string
}

// look begins to watch all kinds of this API.
func (o *onlooker) look(c client.WithWatch) error {
	ctx, stop := context.WithCancel(context.Background())
	o.stop = stop
	o.seen = map[status.Status]int{}
	for _, kind := range []string{"PyrsiaNode", "OfficialImageSet", "Artifact"} {
		list := new(unstructured.UnstructuredList)
		list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind + "List"))
		w, err := c.Watch(ctx, list)
		if err != nil {
			return fmt.Errorf("watching %s: %w", kind, err)
		}
		go func() {
			for e := range w.ResultChan() {
				if obj, ok := e.Object.(*unstructured.Unstructured); ok && e.Type != watch.Deleted {
					o.judge(obj)
				}
			}
		}()
	}
	return nil
}

// judge compares what kstatus says of an object with what its conditions say.
func (o *onlooker) judge(obj *unstructured.Unstructured) {
	o.mu.Lock()
	defer o.mu.Unlock()
	fault := func(format string, args ...any) {
		if len(o.faults) < 10 {
			o.faults = append(o.faults, fmt.Sprintf("%s %s/%s: %s: %v", obj.GetKind(), obj.GetNamespace(), obj.GetName(),
				fmt.Sprintf(format, args...), obj.Object["status"]))
		}
	}
	result, err := status.Compute(obj)
	if err != nil {
		fault("%v", err)
		return
	}
	o.seen[result.Status]++
	conditions := map[string]string{}
	list, _, _ := unstructured.NestedSlice(obj.Object, "status", "conditions")
	for _, c := range list {
		c := c.(map[string]any)
		conditions[c["type"].(string)] = c["status"].(string)
	}
	observed, _, _ := unstructured.NestedInt64(obj.Object, "status", "observedGeneration")
	current := observed == obj.GetGeneration()
	want := status.InProgressStatus
	switch {
	case obj.GetDeletionTimestamp() != nil:
		want = status.TerminatingStatus
	case current && conditions[v1alpha1.ConditionStalled] == "True":
		want = status.FailedStatus
	case current && conditions[v1alpha1.ConditionReady] == "True":
		want = status.CurrentStatus
	}
	if result.Status != want {
		fault("kstatus says %s (%s), and the conditions %s", result.Status, result.Message, want)
	}
}

// verdict is what was wrong, or, when all tests have run, that a state was never
// seen.
func (o *onlooker) verdict(all bool) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range []status.Status{status.InProgressStatus, status.FailedStatus, status.CurrentStatus, status.TerminatingStatus} {
		if all && o.seen[s] == 0 {
			o.faults = append(o.faults, "kstatus never said "+string(s))
		}
	}
	return o.faults
}
