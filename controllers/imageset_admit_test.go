package controllers_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// listing is a set that lists a number of images, and publishes none.
func listing(ns, name string, images int) *v1alpha1.OfficialImageSet {
	const tags = 500 // of one repository
	set := fixtures.ImageSet(ns, time.Hour)
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
	c, ns := ownNamespace(t)
	c.create(t, publisherNode(ns, "http://127.0.0.1:1"))
	large := listing(ns, "large", control.MaxImages+1)
	c.create(t, large)
	got := c.awaitCondition(t, large, v1alpha1.ConditionPlanned, metav1.ConditionFalse, string(control.ReasonInvalidRequest))
	if !strings.Contains(got.Message, strconv.Itoa(control.MaxImages)) || !status.IsTrue(large, v1alpha1.ConditionStalled) {
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
	c.delete(t, full[0])
	c.awaitCondition(t, more, v1alpha1.ConditionPlanned, metav1.ConditionTrue, "")
}
