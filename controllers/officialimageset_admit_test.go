package controllers

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// listing is a set that lists a number of images, and publishes none.
func listing(ns, name string, images int) *v1alpha1.OfficialImageSet {
	const tags = 500 // of one repository
	set := imageSet(ns, time.Hour)
	set.Name, set.Spec.Mode = name, v1alpha1.SetModePlan
	for n := range images {
		if n%tags == 0 {
			set.Spec.Images = append(set.Spec.Images, v1alpha1.ImageTags{Repository: fmt.Sprintf("app%d", n/tags)})
		}
		last := &set.Spec.Images[len(set.Spec.Images)-1]
		last.Tags = append(last.Tags, strconv.Itoa(n%tags))
	}
	return set
}

// heldTogether is how many images the sets of one namespace may hold.
const heldTogether = 2 * control.MaxImages

// What sets hold is in the operator's memory, which all namespaces share.
func TestSetsOfANamespaceHoldABoundedSum(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	ns := c.namespace(t)
	c.create(t, publisherNode(ns, "http://127.0.0.1:1"))
	large := listing(ns, "large", control.MaxImages+1)
	c.create(t, large)
	got := c.awaitCondition(t, large, v1alpha1.ConditionPlanned, metav1.ConditionFalse, string(control.ReasonInvalidRequest))
	if !strings.Contains(got.Message, strconv.Itoa(control.MaxImages)) || !isTrue(large, v1alpha1.ConditionStalled) {
		t.Errorf("%+v", got)
	}
	var full []*v1alpha1.OfficialImageSet
	for n := range heldTogether / control.MaxImages {
		full = append(full, listing(ns, fmt.Sprintf("full%d", n), control.MaxImages))
		c.create(t, full[n])
		c.awaitCondition(t, full[n], v1alpha1.ConditionPlanned, metav1.ConditionTrue, "")
	}
	more := listing(ns, "more", 1)
	c.create(t, more)
	got = c.awaitCondition(t, more, v1alpha1.ConditionPlanned, metav1.ConditionFalse, "TooManyImages")
	if !strings.Contains(got.Message, strconv.Itoa(heldTogether)) {
		t.Errorf("%+v", got)
	}
	// Another namespace has its own.
	elsewhere := listing(c.namespace(t), "more", 1)
	c.create(t, elsewhere)
	c.awaitCondition(t, elsewhere, v1alpha1.ConditionPlanned, metav1.ConditionTrue, "")
	if err := c.Delete(t.Context(), full[0]); err != nil {
		t.Fatal(err)
	}
	c.awaitCondition(t, more, v1alpha1.ConditionPlanned, metav1.ConditionTrue, "")
}

// What sets hold, they hold after a restart of the operator too, whichever of them
// comes first: their status tells.
func TestWhatIsHeldStaysAfterARestart(t *testing.T) {
	t.Parallel()
	set := func(name string, held int) *v1alpha1.OfficialImageSet {
		return &v1alpha1.OfficialImageSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: "images", Name: name, UID: types.UID(name)},
			Status:     v1alpha1.OfficialImageSetStatus{Desired: int32(held)},
		}
	}
	more, full := set("more", 0), []*v1alpha1.OfficialImageSet{set("a", control.MaxImages), set("b", control.MaxImages)}
	r := &OfficialImageSetReconciler{Client: memory(t, more, full[0], full[1]), passes: map[types.NamespacedName]*pass{}}
	if err := r.admit(t.Context(), more, r.passOf(more), 1); err == nil {
		t.Error("a new set was admitted after a restart")
	}
	for _, set := range full {
		if err := r.admit(t.Context(), set, r.passOf(set), control.MaxImages); err != nil {
			t.Errorf("what was held is refused after a restart: %v", err)
		}
	}
}

// memory is a client of an API server that has some objects and does little.
func memory(t *testing.T, objs ...client.Object) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objs...).Build()
}

// A list that needs nobody to be asked leaves out what is to be left out.
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
