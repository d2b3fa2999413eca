package imageset

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
)

// maxFailures bounds status.failures.
const maxFailures = 20

// count counts the images that are published, and sets the conditions.
func (r *Reconciler) count(w *work) status.Step[*v1alpha1.OfficialImageSet] {
	return func(_ context.Context, set *v1alpha1.OfficialImageSet) (time.Duration, error) {
		if !w.planned {
			return 0, nil // the counts of before stand
		}
		failures := resolveFailures(w)
		published, failed := 0, len(w.pass.problems)
		for image, i := range w.pass.images {
			art := find(w.have[image], i.digest)
			switch {
			case art != nil && art.Spec.State == v1alpha1.StateRevoked:
				failed++
				failures = append(failures, v1alpha1.ImageFailure{Image: image, Reason: v1alpha1.ReasonRevoked,
					Message: "the digest that the tag points to is revoked: wait for the upstream to move the tag, or take the image out"})
			case art != nil && status.IsTrue(art, v1alpha1.ConditionReady):
				published++
			case i.failure != nil:
				failed++
			case art != nil:
				if f := artifactFailure(art); f != nil {
					failed++
					failures = append(failures, *f)
				}
			}
		}
		desired := len(w.pass.images) + len(w.pass.problems)
		s := &set.Status
		s.Desired, s.Published, s.Failed = int32(desired), int32(published), int32(failed)
		s.Pending = int32(desired - published - failed)
		s.Blocks, s.Bytes, s.RateLimit = w.blocks, w.bytes, w.pass.rateLimit
		slices.SortFunc(failures, func(a, b v1alpha1.ImageFailure) int { return cmp.Compare(a.Image, b.Image) })
		s.Failures = uniqueFailures(failures)
		if set.Spec.Mode == v1alpha1.SetModePlan {
			return 0, nil
		}
		judgeResolved(set, w)
		judgePublished(set)
		w.pass.progress(s, r.Now())
		keepSteady(w.before, s)
		return 0, nil
	}
}

// uniqueFailures are the first failures, one for each image.
func uniqueFailures(sorted []v1alpha1.ImageFailure) []v1alpha1.ImageFailure {
	out := slices.CompactFunc(sorted, func(a, b v1alpha1.ImageFailure) bool { return a.Image == b.Image })
	return out[:min(len(out), maxFailures)]
}

// speed measures how fast images are published.
type speed struct {
	since     time.Time
	published int32 // at that time
}

// progress says how much is done, and when all will be.
func (p *pass) progress(s *v1alpha1.OfficialImageSetStatus, now time.Time) {
	s.Progress, s.ETA = "100%", nil
	if s.Desired > 0 {
		s.Progress = fmt.Sprintf("%d%%", int64(s.Published)*100/int64(s.Desired))
	}
	if s.Pending == 0 {
		p.speed = speed{}
		return
	}
	if p.speed.since.IsZero() || s.Published < p.speed.published {
		p.speed = speed{now, s.Published}
	}
	done, took := s.Published-p.speed.published, now.Sub(p.speed.since)
	if done > 0 && took >= 10*time.Second {
		left := time.Duration(float64(took) * float64(s.Pending) / float64(done))
		s.ETA = new(metav1.NewTime(now.Add(min(left, 1000*time.Hour)).Truncate(10 * time.Second)))
	}
}

// keepSteady leaves what changes with each pass as it was, unless something
// else is to be written: a set whose images do not move writes nothing.
func keepSteady(before, after *v1alpha1.OfficialImageSetStatus) {
	steady := func(s *v1alpha1.OfficialImageSetStatus) *v1alpha1.OfficialImageSetStatus {
		s = s.DeepCopy()
		s.LastResolvedTime, s.RateLimit, s.ETA = nil, nil, nil
		for i := range s.Failures {
			s.Failures[i].NextTry = nil
		}
		return s
	}
	if before.LastResolvedTime != nil && equality.Semantic.DeepEqual(steady(before), steady(after)) {
		before.DeepCopyInto(after)
	}
}

// artifactFailure is why an Artifact is not published; nil while it is under way.
func artifactFailure(art *v1alpha1.Artifact) *v1alpha1.ImageFailure {
	ready := meta.FindStatusCondition(art.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil || ready.Status != metav1.ConditionFalse {
		return nil
	}
	return &v1alpha1.ImageFailure{Image: art.Spec.Image, Reason: ready.Reason, Message: status.Bounded(ready.Message, status.MaxMessage)}
}

// judgeResolved sets Resolved from what is known of the images.
func judgeResolved(set *v1alpha1.OfficialImageSet, w *work) {
	const condition = v1alpha1.ConditionResolved
	if w.notAsked {
		return
	}
	failures := resolveFailures(w)
	if len(failures) > 0 {
		reason, message := failures[0].Reason, fmt.Sprintf("%s: %s", failures[0].Image, failures[0].Message)
		if slices.ContainsFunc(failures, func(f v1alpha1.ImageFailure) bool { return f.Reason != reason }) {
			reason = v1alpha1.ReasonResolveFailed
		}
		if more := len(failures) - 1; more > 0 {
			message = fmt.Sprintf("%s (and %d more: see status.failures)", status.Bounded(message, status.MaxMessage-64), more)
		}
		status.SetFailed(set, condition, reason, message)
		return
	}
	for _, i := range w.pass.images {
		if i.digest == "" {
			if set.Spec.Suspend {
				status.SetWaiting(set, condition, v1alpha1.ReasonSuspended, "spec.suspend is true: tags are not resolved")
			} else {
				status.SetWaiting(set, condition, v1alpha1.ReasonResolving, "asking the upstream registry for the digests of the tags")
			}
			return
		}
	}
	status.SetDone(set, condition, v1alpha1.ReasonResolved, "All tags are resolved to digests")
}

// resolveFailures are the images that could not be resolved, by name.
func resolveFailures(w *work) []v1alpha1.ImageFailure {
	var out []v1alpha1.ImageFailure
	out = append(out, w.pass.problems...)
	for _, image := range slices.Sorted(maps.Keys(w.pass.images)) {
		if f := w.pass.images[image].failure; f != nil {
			out = append(out, *f)
		}
	}
	return out
}

// judgePublished sets Published from the counts.
func judgePublished(set *v1alpha1.OfficialImageSet) {
	const condition = v1alpha1.ConditionPublished
	s := set.Status
	switch {
	case s.Published == s.Desired:
		status.SetDone(set, condition, v1alpha1.ReasonPublished, "All images are published, verified and mirrored")
	case s.Failed > 0:
		status.SetFailed(set, condition, v1alpha1.ReasonImagesFailed, fmt.Sprintf("%d of %d images are published; see status.failures", s.Published, s.Desired))
	default:
		status.SetWaiting(set, condition, v1alpha1.ReasonPublishing, fmt.Sprintf("%d of %d images are published", s.Published, s.Desired))
	}
}
