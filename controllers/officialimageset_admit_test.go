package controllers

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

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
	for n := range maxHeld / control.MaxImages {
		full = append(full, listing(ns, fmt.Sprintf("full%d", n), control.MaxImages))
		c.create(t, full[n])
		c.awaitCondition(t, full[n], v1alpha1.ConditionPlanned, metav1.ConditionTrue, "")
	}
	more := listing(ns, "more", 1)
	c.create(t, more)
	got = c.awaitCondition(t, more, v1alpha1.ConditionPlanned, metav1.ConditionFalse, reasonTooManyImages)
	if !strings.Contains(got.Message, strconv.Itoa(maxHeld)) {
		t.Errorf("%+v", got)
	}
	// Another namespace has its own, and what is held stays so after a restart too,
	// whichever set comes first.
	elsewhere := listing(c.namespace(t), "more", 1)
	c.create(t, elsewhere)
	c.awaitCondition(t, elsewhere, v1alpha1.ConditionPlanned, metav1.ConditionTrue, "")
	r := &OfficialImageSetReconciler{Client: c, passes: map[types.NamespacedName]*pass{}}
	if err := r.admit(t.Context(), more, r.passOf(more), 1); err == nil {
		t.Error("a new set was admitted after a restart")
	}
	for _, set := range full {
		if err := r.admit(t.Context(), set, r.passOf(set), control.MaxImages); err != nil {
			t.Errorf("what was held is refused after a restart: %v", err)
		}
	}
	if err := c.Delete(t.Context(), full[0]); err != nil {
		t.Fatal(err)
	}
	c.awaitCondition(t, more, v1alpha1.ConditionPlanned, metav1.ConditionTrue, "")
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
